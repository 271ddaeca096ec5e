package oci_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// fakeCRIU stands for a working criu. The OCI runtime beside it passes everything on,
// except a checkpoint, for which it writes one file where criu would, and a restore,
// which runs the program from the beginning, in a Pod to which criu has given the
// hostname of the saved one. BIN/fail makes it fail from that many calls on; a failed
// restore leaves what a killed criu and runc leave: mounts, and a Pod that is cut off
// from the network. BIN/hang keeps it busy as long as it exists: a process in a session
// of its own, like crun's criu, whose id is in BIN/hangs, repeatedly freezes the
// container being saved and writes images. If it ends by itself, it creates BIN/done.
const fakeCRIU = "#!/bin/sh\necho Version: 0\nexit 0\n"

const fakeCheckpoint = `#!/bin/sh
given=$*
for a in "$@"; do
	case "$previous" in
	--image-path) images=$a ;;
	--work-path) work=$a ;;
	--root) root=$a ;;
	--log) log=$a ;;
	--bundle) bundle=$a ;;
	esac
	case "$a" in
	checkpoint | restore) verb=$a ;;
	esac
	previous=$a
done
[ "$verb" ] || exec REAL "$@"
id=$previous
name() {
	nsenter --uts="$(sed -n 's/^join-ns uts://p' "$bundle/criu.conf")" sh -c 'echo was-saved >/proc/sys/kernel/hostname'
}
leave() {
	for dir in "$root/$id/criu-root" "$bundle/.criu.cgyard.1"; do
		mkdir -p "$dir" && mount -t tmpfs none "$dir" && : >"$dir/file"
	done
	uts=$(sed -n 's/^join-ns uts://p' "$bundle/criu.conf")
	printf '*filter\n:CRIU - [0:0]\n-I INPUT -j CRIU\n-I OUTPUT -j CRIU\n-A CRIU -j DROP\nCOMMIT\n' | nsenter --net="${uts%/uts}/net" iptables-restore --noflush
}
if [ -e BIN/hang ]; then
	[ "$verb" = checkpoint ] || name
	setsid sh BIN/busy "$verb" "$id" "$images" &
	wait
fi
[ "$verb" = checkpoint ] || name
if [ -e BIN/fail ] && [ "$(cat BIN/calls 2>/dev/null | wc -l)" -ge "$(cat BIN/fail)" ]; then
	echo '{"level":"error","msg":"criu has had enough"}' >"$log"
	for name in dump restore; do
		echo '(00.1) Error (criu/x.c:1): the cause' >"$work/$name.log"
	done
	[ "$verb" = checkpoint ] || leave
	exit 1
fi
echo "$given" >>BIN/calls
if [ "$verb" = restore ]; then
	cat "$images/pages-1.img" "$bundle/criu.conf" >>BIN/restored
	exec REAL --root "$root" --log "$log" --log-format json run --detach --bundle "$bundle" --pid-file "$bundle/pid" "$id"
fi
cat /sys/fs/cgroup/freezer/nodekit-oci-*/*/"$id"/../*/freezer.state /sys/fs/cgroup/nodekit-oci-*/*/"$id"/../*/cgroup.freeze >>BIN/states 2>/dev/null
echo memory >"$images/pages-1.img"
`

const busyCRIU = `
verb=$1 id=$2
[ "$3" ] && cd "$3" # which has another name, or none, when the server has ended
while [ -e BIN/hang ]; do
	if [ "$verb" = checkpoint ]; then
		for file in /sys/fs/cgroup/freezer/nodekit-oci-*/*/"$id"/freezer.state; do
			[ -e "$file" ] && echo FROZEN >"$file"
		done
		for file in /sys/fs/cgroup/nodekit-oci-*/*/"$id"/cgroup.freeze; do
			[ -e "$file" ] && echo 1 >"$file"
		done
		echo memory >late.img
	fi
	[ -e BIN/hangs ] || { echo $$ >BIN/hangs.new && mv BIN/hangs.new BIN/hangs; }
	sleep 0.01
done
: >BIN/done
`

// newSaver is newNode with a fake criu and a fake OCI runtime, in bin.
func newSaver(t *testing.T) (n *node, bin string) {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Runc)
	real, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	bin = t.TempDir()
	in := strings.NewReplacer("REAL", real, "BIN", bin)
	for name, text := range map[string]string{"criu": fakeCRIU, "saving-runc": fakeCheckpoint, "busy": busyCRIU} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(in.Replace(text)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", bin+":"+path)
	t.Setenv(ociRuntime, bin+"/saving-runc")
	return newNode(t), bin
}

// TestCheckpoint: the archive has criu's images, the spec and the container's changes;
// without criu, the call does not exist.
func TestCheckpoint(t *testing.T) {
	n, bin := newSaver(t)
	sandbox, cfg := n.sandbox("saved", nil)
	id := n.create(sandbox, cfg, "main", nil, "do", "write /changed new", "echo written", "sleep forever")
	n.startContainer(id)
	n.waitLog("saved", "main", "written") // the file exists before the log line
	save := func(file string) error {
		_, err := n.rs.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: n.dir + "/" + file, Timeout: 10})
		return err
	}
	n.must(save("saved.tar"))
	top := entries(t, n.dir+"/saved.tar")
	if top["checkpoint/pages-1.img"] != "memory\n" || !strings.Contains(top["spec.dump"], "ociVersion") || !strings.Contains(top["config.dump"], id) {
		t.Errorf("the archive has %q", top)
	}
	n.must(os.WriteFile(n.dir+"/diff.tar", []byte(top["rootfs-diff.tar"]), 0o600))
	if diff := entries(t, n.dir+"/diff.tar"); diff["changed"] != "new\n" {
		t.Errorf("the changes are %q", diff)
	}
	n.must(os.WriteFile(bin+"/fail", []byte("0"), 0o600))
	if err := save("failed.tar"); err == nil || !strings.Contains(err.Error(), "criu: the cause") {
		t.Errorf("a checkpoint that fails says %v", err)
	}
	if out, code := n.exec(id, "/podtool", "do", "echo runs on"); out != "runs on\n" || code != 0 {
		t.Errorf("after it the container printed %q and ended with %d", out, code)
	}
	n.must(os.WriteFile(bin+"/criu", []byte("#!/bin/sh\nexit 1\n"), 0o755))
	n.restart()
	if err := save("none.tar"); status.Code(err) != codes.Unimplemented {
		t.Errorf("without a criu that works: %v, want Unimplemented", err)
	}
	n.removeSandbox(sandbox)
}

func entries(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(text)
	}
}

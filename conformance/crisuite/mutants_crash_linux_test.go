package crisuite_test

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// sessionMutants are killed while somebody is in a container.
func sessionMutants() []mutant {
	again := func(method string) fault { return seen("does not want to", refuse(method, codes.Internal, afterKill)) }
	startsAgain := seen("it was started once", tellAgain(func(_ *exchange, r *runtimeapi.ContainerStatusResponse) { r.Status.StartedAt++ }))
	ends := seen("want CONTAINER_RUNNING", endsAll())
	return []mutant{
		{"CRI-CRASH-022", "ends its containers when it starts", ends},
		{"CRI-CRASH-022", "tells of another start when it starts", startsAgain},
		{"CRI-CRASH-023", "ends its containers when it starts", ends},
		{"CRI-CRASH-023", "tells of another start when it starts", startsAgain},
		{"CRI-CRASH-024", "ends its containers when it starts", ends},
		{"CRI-CRASH-024", "tells of another start when it starts", startsAgain},
		{"CRI-CRASH-025", "executes commands elsewhere", seen("run on", executesElsewhere())},
		{"CRI-CRASH-026", "executes nothing in a stream from before", again("Exec")},
		{"CRI-CRASH-026", "attaches to nothing from before", again("Attach")},
		{"CRI-CRASH-027", "forwards to nothing from before", again("PortForward")},
	}
}

// executesElsewhere has a process beside each command, which does not end with the
// container.
func executesElsewhere() fault {
	return fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
		if r, ok := req.(*runtimeapi.ExecSyncRequest); ok {
			haunt("elsewhere", containerMark(c, r.ContainerId))
		}
		return nil, nil
	}}
}

// savingMutants have a runtime behind them that makes checkpoints.
func savingMutants() []mutant {
	return []mutant{
		{"CRI-CRASH-028", "leaves frozen what it was saving", seen("does not run on", freezesAll())},
		{"CRI-CRASH-029", "leaves frozen what it was saving", seen("does not run on", freezesAll())},
		{"CRI-CRASH-030", "writes to where the archive is to be", seen("is a part of one", writesInPlace())},
		{"CRI-CRASH-030", "saves nothing from before", seen("does not want to", refuse("CheckpointContainer", codes.Internal, afterKill))},
	}
}

// freezesAll stands for a runtime that does not let go on, when it starts, what it had
// stopped when it was killed.
func freezesAll() fault {
	return fault{open: func(p *proxy) {
		all, err := p.rt.ListContainers(context.Background(), &runtimeapi.ListContainersRequest{})
		if !p.again || err != nil {
			return
		}
		for _, c := range all.Containers {
			if pid, err := strconv.Atoi(containerPID(&exchange{proxy: p, ctx: context.Background()}, c.Id)); err == nil {
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		}
	}}
}

// writesInPlace leaves the first half of an archive until the whole one takes its place.
func writesInPlace() fault {
	return fault{request: func(_ *exchange, req proto.Message) (proto.Message, error) {
		r, ok := req.(*runtimeapi.CheckpointContainerRequest)
		if !ok {
			return nil, nil
		}
		f, err := os.Create(r.Location)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		w := tar.NewWriter(f)
		if err := w.WriteHeader(&tar.Header{Name: "pages-1.img", Size: 4096, Mode: 0o600}); err != nil {
			return nil, err
		}
		_, err = io.WriteString(w, strings.Repeat("x", 2048))
		return nil, err
	}}
}

// The stand-ins for a CRIU that works, and for an OCI runtime that saves with it: it stops a
// container for a while, and leaves one that stands still already as it is.
const (
	standInCRIU = "#!/bin/sh\necho Version: 0\n"
	standInRunc = `#!/bin/sh
for a in "$@"; do
	case "$previous" in
	--image-path) images=$a ;;
	--root) root=$a ;;
	esac
	[ "$a" = checkpoint ] && saves=yes
	previous=$a
done
[ "$saves" ] || exec runc "$@"
case "$(runc --root "$root" state "$previous")" in
*'"status": "running"'*) runc --root "$root" pause "$previous" && stopped=yes ;;
esac
echo memory >"$images/pages-1.img"
sleep 0.1
[ -z "$stopped" ] || runc --root "$root" resume "$previous"
`
)

// saverArgs are added to those of the reference runtime that makes checkpoints.
func saverArgs(tools string) []string {
	return []string{"--oci-runtime", filepath.Join(tools, "saver", "runc-saves")}
}

// saverPath is its environment's PATH.
func saverPath(tools string) string {
	return "PATH=" + filepath.Join(tools, "saver") + string(filepath.ListSeparator) + os.Getenv("PATH")
}

// writeSaver writes the stand-ins to where the two look for them.
func writeSaver(tools string) error {
	dir := filepath.Join(tools, "saver")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"criu": standInCRIU, "runc-saves": standInRunc} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return fmt.Errorf("writing a stand-in: %w", err)
		}
	}
	return nil
}

// saver is the reference runtime where checkpoints can be made.
func saver(t testing.TB) crisuite.Target {
	testenv.Require(t, testenv.Runc)
	target, dir := reference(t), tools(t)
	target.Exec = append(target.Exec, saverArgs(dir)...)
	target.Env = append(target.Env, saverPath(dir))
	return target
}

// mutantSaver is mutantProgram for savingMutants.
func mutantSaver(t testing.TB, m mutant) crisuite.Target {
	testenv.Require(t, testenv.Runc)
	return mutantProgram(t, m)
}

// TestKilledInACheckpoint holds the reference runtime to the rules that kill it while it
// saves, for which few machines have what it takes.
func TestKilledInACheckpoint(t *testing.T) {
	only := []string{"CRI-CRASH-028", "CRI-CRASH-029", "CRI-CRASH-030"}
	report, err := crisuite.Suite().Run(t.Context(), saver(t), &conformance.Options{Only: only, Tier: conformance.Crash})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != len(only) {
		t.Errorf("%d rules ran, want %d", len(report.Results), len(only))
	}
	for _, r := range report.Results {
		if r.Status != conformance.Pass {
			t.Errorf("%s: %s: %s", r.ID, r.Status, r.Message)
		}
	}
}

package oci_test

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/checkpoint"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/nspin"
)

// TestPodRestoreRefuses: a restore that is not possible leaves nothing of the Pod.
func TestPodRestoreRefuses(t *testing.T) {
	n, bin := newSaver(t)
	p := n.savedPod("saved")
	n.must(p.save(t.Context()))
	good := p.restoring("restored")
	n.removeSandbox(p.sandbox)
	changes := filepath.Join(p.dir, checkpoint.Changes(1))
	text, err := os.ReadFile(changes)
	n.must(err)
	for says, change := range map[string]func(*runtimeapi.RestorePodRequest){
		"1 containers":   func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs = r.ContainerConfigs[:1] },
		`"stranger"`:     func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Metadata.Name = "stranger" },
		"without tty":    func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Tty = true },
		"standard input": func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Stdin = true },
		"its arguments":  func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Args = []string{"sleep", "1s"} },
		"its read-only root": func(r *runtimeapi.RestorePodRequest) {
			r.ContainerConfigs[1].Linux.SecurityContext.ReadonlyRootfs = true
		},
		"namespaces are not those": func(r *runtimeapi.RestorePodRequest) {
			r.Config.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
		},
		"unpacking": func(*runtimeapi.RestorePodRequest) {
			n.must(os.WriteFile(changes, make([]byte, len(text)), 0o600))
			n.must(os.WriteFile(changes, []byte(strings.Repeat("?", len(text))), 0o600))
		},
	} {
		req := proto.CloneOf(good)
		change(req)
		if _, err := n.restore(t.Context(), req); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want an error that says %q", err, says)
		}
		if left := n.sandboxes(); left > 0 {
			t.Errorf("%d sandboxes are left behind an error that says %q", left, says)
		}
		n.nothingAttached()
		n.must(os.WriteFile(changes, text, 0o600))
	}

	// A failed start is reported, and ends the container.
	resp, err := n.restore(t.Context(), good)
	n.must(err)
	n.must(os.WriteFile(bin+"/fail", []byte("0"), 0o600))
	_, err = n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: resp.RestoredContainers[0].ContainerId})
	if err == nil || !strings.Contains(err.Error(), "criu: the cause") {
		t.Errorf("a start that fails says %v", err)
	}
	r := &restart{n, bin, resp.PodSandboxId, resp.RestoredContainers}
	if got := r.hostname(); got != good.Config.Hostname {
		t.Errorf("behind it the Pod's hostname is %q", got)
	}
	if left := r.images(r.containers[0].ContainerId); len(left) > 0 {
		t.Errorf("behind it there is %q", left)
	}
	r.free()
	n.removeSandbox(resp.PodSandboxId)
}

// nothingAttached fails if a sandbox has left attachments to the network.
func (n *node) nothingAttached() {
	n.t.Helper()
	if left, _ := filepath.Glob(n.dir + "/attached/*"); len(left) > 0 {
		n.t.Errorf("attached are %q", left)
	}
}

// TestKilledInARestore: the next server has nothing of a Pod whose restore was
// interrupted.
func TestKilledInARestore(t *testing.T) {
	n, _ := newSaver(t)
	p := n.savedPod("saved")
	n.must(p.save(t.Context()))
	req := p.restoring("restored")
	n.removeSandbox(p.sandbox)
	// The CNI plugin is in the middle of it: after the namespaces, before the containers.
	plugin, hold := n.dir+"/bin/fake", n.dir+"/hold"
	n.must(os.WriteFile(plugin, []byte(strings.Replace(fakeCNI, "ADD) ", "ADD) while [ -e "+hold+" ]; do : >"+hold+".held; sleep 0.01; done; ", 1)), 0o755))
	n.must(os.WriteFile(hold, nil, 0o600))
	over := make(chan error, 1)
	go func() {
		_, err := n.restore(t.Context(), req)
		over <- err
	}()
	n.waitFile(hold + ".held")
	n.kill()
	n.must(os.Remove(hold))
	n.start()
	if err := <-over; err == nil {
		t.Error("the client of a server that was killed has a Pod")
	}
	if left := n.sandboxes(); left > 0 {
		t.Errorf("%d sandboxes are left", left)
	}
	resp, err := n.restore(t.Context(), req)
	n.must(err)
	n.removeSandbox(resp.PodSandboxId)
}

// TestKilledInARestoredStart: whatever becomes of the start of a restored container that
// was in progress when the server was killed, the Pod has its own hostname, and nothing
// is left of the checkpoint.
func TestKilledInARestoredStart(t *testing.T) {
	for name, c := range map[string]struct {
		become func(r *restart) // of the start
		behind bool             // when there is the next server
		code   int32            // of the container that has ended
		host   string           // the Pod's, "" for the machine's
	}{
		"it goes on behind": {(*restart).goesOn, true, 0, "restored"},
		"it goes on before": {(*restart).goesOn, false, 0, "restored"},
		"it fails behind":   {(*restart).fails, true, 128, "restored"},
		"it fails before":   {(*restart).fails, false, 137, "restored"},
		"it ends before":    {(*restart).ends, false, 137, "restored"},
		"without a name":    {(*restart).goesOn, false, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRestart(t, c.host)
			machine, err := os.Hostname()
			r.must(err)
			want := cmp.Or(c.host, machine)
			if !c.behind {
				c.become(r)
			}
			r.start()
			if c.behind {
				c.become(r)
			}
			id := r.containers[0].ContainerId
			r.waitFor(func() bool { return len(r.images(id)) == 0 }, "the images of the checkpoint to go")
			if got := r.hostname(); got != want {
				t.Errorf("the Pod's hostname is %q, want %q", got, want)
			}
			if c.code != 0 {
				if st := r.exited(id); st.ExitCode != c.code {
					t.Errorf("it ended with %d (%s: %s), want %d", st.ExitCode, st.Reason, st.Message, c.code)
				}
			} else if out, _ := r.exec(id, "/podtool", "hostname"); out != want+"\n" {
				t.Errorf("its host is %q", out)
			}
			r.free()
			if len(r.images(r.containers[1].ContainerId)) == 0 {
				t.Error("the images of a container that was not started are gone")
			}
			r.removeSandbox(r.sandbox)
		})
	}
}

// restart is a restored Pod with the start of its first container in progress, without a
// server.
type restart struct {
	*node
	bin, sandbox string
	containers   []*runtimeapi.RestoredContainer
}

func newRestart(t *testing.T, host string) *restart {
	t.Helper()
	n, bin := newSaver(t)
	p := n.savedPod("saved")
	n.must(p.save(t.Context()))
	req := p.restoring("restored")
	req.Config.Hostname = host
	n.removeSandbox(p.sandbox)
	resp, err := n.restore(t.Context(), req)
	n.must(err)
	n.must(os.WriteFile(bin+"/hang", nil, 0o600))
	over := make(chan error, 1)
	go func() {
		_, err := n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: resp.RestoredContainers[0].ContainerId})
		over <- err
	}()
	n.busy(bin)
	n.kill()
	<-over
	return &restart{n, bin, resp.PodSandboxId, resp.RestoredContainers}
}

// goesOn lets the OCI runtime continue, and waits for its end.
func (r *restart) goesOn() {
	r.t.Helper()
	r.must(os.Remove(r.bin + "/hang"))
	r.waitFor(func() bool {
		list, err := keeper.NewClient(r.dir + "/run").List(r.t.Context())
		r.must(err)
		return !slices.ContainsFunc(list, func(st keeper.Status) bool { return st.Starting })
	}, "the end of the start")
}

func (r *restart) fails() {
	r.t.Helper()
	r.must(os.WriteFile(r.bin+"/fail", []byte("0"), 0o600))
	r.goesOn()
}

func (r *restart) ends() {
	r.t.Helper()
	r.goesOn()
	r.must(unix.Kill(r.pidOf(r.containers[0].ContainerId), unix.SIGKILL))
	r.waitFor(func() bool { return r.pidOf(r.containers[0].ContainerId) == 0 }, "its end")
}

// free fails if something of a killed criu and runc is left.
func (r *restart) free() {
	r.t.Helper()
	p := &savedPod{node: r.node, sandbox: r.sandbox}
	if rules := p.inNetwork("iptables", "-S"); strings.Contains(rules, "CRIU") {
		r.t.Errorf("the Pod's network is locked: %s", rules)
	}
	left, err := mount.Below(r.dir)
	r.must(err)
	for _, point := range left {
		if strings.Contains(point, "criu") {
			r.t.Errorf("mounted is %q", point)
		}
	}
}

// images returns criu's images, from which a container is restored.
func (r *restart) images(id string) []string {
	found, err := filepath.Glob(r.dir + "/cri/*/" + id + "/restored/*")
	r.must(err)
	return found
}

// hostname returns the Pod's.
func (r *restart) hostname() string {
	r.t.Helper()
	var name unix.Utsname
	r.must(nspin.OnThrowAwayThread(func() error {
		ns, err := os.Open(r.dir + "/run/sandboxes/" + r.sandbox + "/uts")
		if err != nil {
			return err
		}
		defer ns.Close()
		return errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWUTS), unix.Uname(&name))
	}))
	return unix.ByteSliceToString(name.Nodename[:])
}

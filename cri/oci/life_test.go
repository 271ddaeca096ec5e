package oci_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/mount"
)

func TestLife(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("life", nil)
	st, err := n.rs.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox})
	n.must(err)
	if st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip != "192.0.2.7" {
		t.Fatalf("the sandbox is %v", st.Status)
	}
	id := n.create(sandbox, cfg, "main", nil, "do", "echo hello", "hostname", "cat /etc/resolv.conf", "exit 7")
	if got := n.status(id).State; got != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Fatalf("the container is %v, want created", got)
	}
	n.startContainer(id)
	if got := n.exited(id); got.ExitCode != 7 || got.Reason != "Error" {
		t.Fatalf("it ended with %d (%s), want 7 (Error)", got.ExitCode, got.Reason)
	}
	want := "hello\nlife\nsearch test.local\nnameserver 192.0.2.53\n"
	if got := n.logOf("life", "main"); got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	n.removeSandbox(sandbox)
	n.removeSandbox(sandbox)
}

// TestMountsOfASandbox: each mount exists once, even if mounts propagate, and copies that
// a service has made meanwhile disappear with the sandbox; otherwise they would keep its
// namespaces alive.
func TestMountsOfASandbox(t *testing.T) {
	n := newNode(t)
	run := filepath.Join(n.dir, "run")
	n.must(mount.MakeShared(run))
	t.Cleanup(func() { n.must(mount.UndoShared(run)) })
	sandbox, _ := n.sandbox("mounts", nil)
	dir := filepath.Join(run, "sandboxes", sandbox)
	points, err := mount.Below(dir)
	n.must(err)
	slices.Sort(points)
	want := []string{dir, dir + "/ipc", dir + "/net", dir + "/uts"}
	if !slices.Equal(points, want) {
		t.Errorf("mounted are %q, want %q", points, want)
	}
	service := exec.Command("sleep", "60")
	service.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	n.must(service.Start())
	defer func() {
		_ = service.Process.Kill()
		_ = service.Wait()
	}()
	has := func() bool {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", service.Process.Pid))
		n.must(err)
		return strings.Contains(string(table), sandbox)
	}
	if !has() {
		t.Error("the service has no copies")
	}
	n.removeSandbox(sandbox)
	if has() {
		t.Error("the service keeps its copies")
	}
}

// TestStopWithoutPlugin: while the network cannot be detached, its namespace remains, but
// the Pod's memory is released.
func TestStopWithoutPlugin(t *testing.T) {
	n := newNode(t)
	sandbox, _ := n.sandbox("stuck", nil)
	plugin := filepath.Join(n.dir, "bin", "fake")
	n.must(os.Rename(plugin, plugin+".away"))
	if _, err := n.rs.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox}); err == nil {
		t.Error("stopped without the plugin")
	}
	dir := filepath.Join(n.dir, "run", "sandboxes", sandbox)
	left, err := mount.Below(dir)
	n.must(err)
	if slices.Sort(left); !slices.Equal(left, []string{dir, dir + "/net"}) {
		t.Errorf("mounted are %q", left)
	}
	n.must(os.Rename(plugin+".away", plugin))
	n.removeSandbox(sandbox)
}

func TestStop(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("stop", nil)
	for name, tc := range map[string]struct {
		does  string
		grace int64
		code  int32
	}{
		"heeds":   {"trap 5", 10, 5},
		"ignores": {"ignore-term", 1, 137},
		"now":     {"trap 5", 0, 137},
	} {
		id := n.create(sandbox, cfg, name, nil, "do", "echo up", tc.does)
		n.startContainer(id)
		n.waitLog("stop", name, "up\n") // its handler is there before
		_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: tc.grace})
		n.must(err)
		if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != tc.code {
			t.Errorf("%s: it is %v with code %d, want exited with %d", name, st.State, st.ExitCode, tc.code)
		}
	}
	n.removeSandbox(sandbox)
}

// TestStopFrozen: a container that somebody has frozen can be stopped: with cgroup v1, it
// must be thawed for that.
func TestStopFrozen(t *testing.T) {
	n := newNode(t)
	sandbox, id := n.run("frozen", nil, "sleep", "forever")
	parent := n.sandboxCgroup(sandbox)
	path := parent + "/" + id
	if cgroup.IsUnit(parent) {
		path = cgroup.Scope(parent, "nodekit", id)
	}
	n.freeze(path)
	began := time.Now()
	_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
	n.must(err)
	if st := n.status(id); st.ExitCode != 137 || time.Since(began) > 5*time.Second {
		t.Errorf("it ended with %d after %s, want 137 soon", st.ExitCode, time.Since(began))
	}
	n.removeSandbox(sandbox)
}

func (n *node) freeze(path string) {
	n.t.Helper()
	dirs, err := cgroup.Dirs(path)
	n.must(err)
	for _, dir := range dirs {
		for file, text := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
			err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0)
			if err == nil {
				return
			}
			if !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) {
				n.t.Fatal(err)
			}
		}
	}
	n.t.Fatalf("none of %v can be frozen", dirs)
}

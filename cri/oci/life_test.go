package oci_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
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

// A container that somebody has frozen ends all the same: of cgroups of version 1 it
// has to be thawed for that.
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

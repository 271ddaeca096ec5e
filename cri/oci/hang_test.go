package oci_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
)

// TestStartHangs: a start that hangs in its OCI runtime prevents neither a server from
// starting nor other containers from being started; its outcome is known when it is over.
func TestStartHangs(t *testing.T) {
	for name, c := range map[string]struct {
		signal unix.Signal // what the runtime gets at last
		code   int32
	}{
		"it goes on": {unix.SIGCONT, 6},
		"it fails":   {unix.SIGKILL, 128},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			sandbox, cfg := n.sandbox("hangs", nil)
			id, runtime := n.hangingStart(sandbox, cfg)
			n.kill()
			n.start()
			if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("while its start hangs it is %v", st.State)
			}
			other := n.create(sandbox, cfg, "other", nil, "exit", "4")
			n.startContainer(other)
			if st := n.exited(other); st.ExitCode != 4 {
				t.Errorf("the other one ended with %d, want 4", st.ExitCode)
			}
			n.must(unix.Kill(runtime, c.signal))
			if st := n.exited(id); st.ExitCode != c.code {
				t.Errorf("it ended with %d (%s: %s), want %d", st.ExitCode, st.Reason, st.Message, c.code)
			}
			n.removeSandbox(sandbox)
		})
	}
}

// hangingStart begins to start a container, which ends with 6 unless args say otherwise,
// and stops the OCI runtime (SIGSTOP) meanwhile.
func (n *node) hangingStart(sandbox string, cfg *runtimeapi.PodSandboxConfig, args ...string) (id string, runtime int) {
	n.t.Helper()
	hello, err := keeper.NewClient(n.dir + "/run").Hello(n.t.Context())
	n.must(err)
	if args == nil {
		args = []string{"exit", "6"}
	}
	for i := range 10 {
		id = n.create(sandbox, cfg, fmt.Sprint("hangs", i), nil, args...)
		over := make(chan error, 1)
		go func() {
			_, err := n.rs.StartContainer(context.Background(), &runtimeapi.StartContainerRequest{ContainerId: id})
			over <- err
		}()
		for runtime = 0; runtime == 0 && len(over) == 0; time.Sleep(100 * time.Microsecond) {
			runtime = stopChild(hello.PID, id)
		}
		if runtime != 0 {
			return id, runtime
		}
		n.must(<-over) // it was too fast
	}
	n.t.Fatal("no start was caught")
	return "", 0
}

// stopChild stops the child of a process that has the word among its arguments; 0
// when there is none.
func stopChild(parent int, word string) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, file := range lists {
		text, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(text)) {
			line, _ := os.ReadFile("/proc/" + field + "/cmdline")
			var pid int
			if _, err := fmt.Sscan(field, &pid); err == nil && strings.Contains(string(line), word) && unix.Kill(pid, unix.SIGSTOP) == nil {
				return pid
			}
		}
	}
	return 0
}

// TestEndHangingStart: stopping or removing a container does not wait for its start,
// which hangs in the OCI runtime; a stop waits for the grace period. The same holds for
// the server after the one that began the start.
func TestEndHangingStart(t *testing.T) {
	for name, end := range map[string]func(ctx context.Context, n *node, sandbox, id string) error{
		"remove": func(ctx context.Context, n *node, _, id string) error {
			_, err := n.rs.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
			return err
		},
		"stop": func(ctx context.Context, n *node, _, id string) error {
			_, err := n.rs.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1})
			return err
		},
		"stop the pod": func(ctx context.Context, n *node, sandbox, _ string) error {
			_, err := n.rs.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox})
			return err
		},
	} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, server killed %v", name, killed), func(t *testing.T) {
				n := newNode(t)
				sandbox, cfg := n.sandbox("hangs", nil)
				id, runtime := n.hangingStart(sandbox, cfg)
				if killed {
					n.kill()
					n.start()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				if err := end(ctx, n, sandbox, id); err != nil {
					_ = unix.Kill(runtime, unix.SIGKILL)
					t.Fatal(err)
				}
				n.removeSandbox(sandbox)
			})
		}
	}
}

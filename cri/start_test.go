package cri_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/cri"
)

// TestStartIsBroken: the context of a start that does not end ends when somebody wants the
// container dead, with a cause that tells that from the server's stop.
func TestStartIsBroken(t *testing.T) {
	for name, end := range map[string]func(n *node, sandbox, id string) error{
		"stop":               func(n *node, _, id string) error { return n.stopContainer(id, 1) },
		"remove":             func(n *node, _, id string) error { return n.removeContainer(id) },
		"stop the sandbox":   func(n *node, sandbox, _ string) error { return n.stopSandbox(sandbox) },
		"remove the sandbox": func(n *node, sandbox, _ string) error { return n.removeSandbox(sandbox) },
		"the server":         func(n *node, _, _ string) error { n.stop(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, rt := newFake()
			began, cause := make(chan struct{}), make(chan error, 1)
			rt.StartContainer = func(ctx context.Context, _ *cri.Container) error {
				close(began)
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return errors.New("it was broken off")
			}
			n := serve(t, rt, t.TempDir())
			sandbox := n.sandbox("pod")
			id := n.container(sandbox, "hangs")
			started, over := make(chan error, 1), make(chan struct{})
			go func() { started <- n.start(id) }()
			<-began
			go func() {
				defer close(over)
				if err := end(n, sandbox, id); err != nil {
					t.Error(err)
				}
			}()
			soon(t, over)
			wanted := name != "the server"
			if err := <-cause; errors.Is(err, cri.ErrFailedPrecondition) != wanted {
				t.Errorf("the context ended for %v", err)
			}
			if err := <-started; wanted && status.Code(err) != codes.FailedPrecondition {
				t.Errorf("the start got %v", err)
			}
		})
	}
}

package cri

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/rpc"
)

const (
	// execOutput caps what ExecSync keeps of both streams together, in bytes:
	// the CRI's 16 MiB less room for the message around it, because a larger
	// answer would not pass gRPC's limit and the command would fail for it.
	execOutput = rpc.MaxMessage - 4096
	// execDrain is how long ExecSync waits for Runtime.Exec after it ended its
	// context. A process that keeps the streams open cannot hold up a probe.
	execDrain = time.Second
)

// ExecSync runs a command and returns its output. A timeout is answered with
// DeadlineExceeded, an exit code other than 0 is not an error.
func (s *server) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if s.rt.Exec == nil {
		return nil, unimplemented("ExecSync")
	}
	if len(req.GetCmd()) == 0 {
		return nil, ErrInvalid.Errorf("the request has no command")
	}
	c, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	// A child of the client's context: nobody needs the output of a command
	// whose caller is gone.
	ctx, cancel := context.WithCancel(podContext(ctx, c.Sandbox))
	defer cancel()
	if req.GetTimeout() > 0 {
		ctx, cancel = context.WithTimeout(ctx, graceOf(req.GetTimeout()))
		defer cancel()
	}
	defer context.AfterFunc(s.base, cancel)()
	out := newCapture(execOutput)
	code, err := s.execCaptured(ctx, c, req.GetCmd(), out)
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("command %q in container %q timed out after %d s: %w", req.GetCmd(), c.ID, req.GetTimeout(), context.DeadlineExceeded)
		}
		return nil, err
	}
	stdout, stderr := out.result()
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: code}, nil
}

// execCaptured returns soon after ctx ended, also when the author does not.
func (s *server) execCaptured(ctx context.Context, c *Container, cmd []string, out *capture) (int32, error) {
	type result struct {
		code int32
		err  error
	}
	done := make(chan result, 1)
	s.calls.Go(func() {
		var r result
		r.err = s.guard("Exec", func() (err error) {
			r.code, err = s.rt.Exec(ctx, c, cmd, Streams{Stdout: out.stdout(), Stderr: out.stderr()})
			return err
		})
		done <- r
	})
	select {
	case r := <-done:
		return r.code, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.code, r.err
	case <-time.After(execDrain):
		return 0, ctx.Err()
	}
}

// running returns a copy of a running container for the author.
func (s *server) running(id string) (*Container, error) {
	c, err := s.mustContainer(id)
	if err != nil {
		return nil, err
	}
	dup := c.copy()
	if !dup.Running() {
		return nil, ErrFailedPrecondition.Errorf("container %q: it is not running", dup.ID)
	}
	return dup, nil
}

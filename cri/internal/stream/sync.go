package stream

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

const (
	// outputLimit bounds, in bytes, what ExecSync keeps of both streams together: the
	// CRI's 16 MiB less room for the rest of the message, because a larger response would
	// exceed gRPC's limit and fail the call.
	outputLimit = rpc.MaxMessage - 4096
	// patience is how long ExecSync waits for Functions.Exec after it has canceled its
	// context. A process that keeps the streams open must not block a probe.
	patience = time.Second
)

// ExecSync runs a command and returns its output. A timeout is answered with
// DeadlineExceeded; a non-zero exit code is not an error.
func (s *Server) ExecSync(client context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if s.functions.Exec == nil {
		return nil, unsupported("ExecSync")
	}
	if err := validate.Command(req.GetCmd()); err != nil {
		return nil, err
	}
	if err := s.functions.Running(req.GetContainerId()); err != nil {
		return nil, err
	}
	// Derived from the client's context: nobody needs the output of a command whose
	// caller is gone.
	ctx, cancel := context.WithCancel(client)
	defer cancel()
	if req.GetTimeout() > 0 {
		ctx, cancel = context.WithTimeout(ctx, flight.Seconds(req.GetTimeout()))
		defer cancel()
	}
	defer context.AfterFunc(s.base, cancel)()
	out := &capture{room: outputLimit}
	code, err := s.captured(ctx, req, out)
	late := client.Err() == nil && ctx.Err() == context.DeadlineExceeded
	if late && (err != nil || code != 0) {
		return nil, fmt.Errorf("command %q in container %q timed out after %d s: %w",
			req.GetCmd(), req.GetContainerId(), req.GetTimeout(), context.DeadlineExceeded)
	}
	if err != nil {
		return nil, err
	}
	stdout, stderr := out.result()
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: code}, nil
}

// captured returns soon after ctx has ended, even if the function does not.
func (s *Server) captured(ctx context.Context, req *runtimeapi.ExecSyncRequest, out *capture) (int32, error) {
	type result struct {
		code int32
		err  error
	}
	done := make(chan result, 1)
	err := s.calls.Go(func(context.Context) {
		code, err := s.functions.Exec(ctx, req.GetContainerId(), req.GetCmd(), Streams{
			Stdout: captureWriter{out, &out.out}, Stderr: captureWriter{out, &out.err},
		})
		done <- result{code, err}
	})
	if err != nil {
		return 0, err
	}
	select {
	case r := <-done:
		return r.code, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.code, r.err
	case <-time.After(patience):
		return 0, ctx.Err()
	}
}

// capture keeps the first bytes of two streams and discards the rest. After result it
// keeps nothing more, so that a writer that outlives the call cannot affect the response.
type capture struct {
	mu       sync.Mutex
	room     int
	closed   bool
	out, err bytes.Buffer
}

func (c *capture) result() (stdout, stderr []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.out.Bytes(), c.err.Bytes()
}

type captureWriter struct {
	c   *capture
	buf *bytes.Buffer
}

func (w captureWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.c.closed {
		return len(p), nil
	}
	keep := min(len(p), w.c.room)
	w.c.room -= keep
	w.buf.Write(p[:keep])
	return len(p), nil
}

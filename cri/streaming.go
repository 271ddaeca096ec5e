package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// streams serves exec, attach and port-forward over HTTP on a loopback address
// that the kernel picks. A URL carries a token that works once, for a minute.
type streams struct {
	urls streaming.Server
	http *http.Server
}

// startStreaming does nothing when the Runtime has none of the functions.
func (s *server) startStreaming() error {
	if s.rt.Exec == nil && s.rt.Attach == nil && s.rt.PortForward == nil {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for streams: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = l.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	urls, err := streaming.NewServer(config, streamRuntime{s})
	if err != nil {
		return errors.Join(fmt.Errorf("making the streaming server: %w", err), l.Close())
	}
	s.streams = &streams{urls: urls, http: &http.Server{
		Handler: urls, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return s.base },
	}}
	s.calls.Go(func() {
		if err := s.streams.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.logged(s.base, "serving streams", err)
		}
	})
	return nil
}

func (s *server) stopStreaming() {
	if s.streams != nil {
		s.logged(s.base, "closing the streaming server", s.streams.http.Close())
	}
}

// Exec returns the URL at which the command will run.
func (s *server) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if s.rt.Exec == nil {
		return nil, unimplemented("Exec")
	}
	if len(req.GetCmd()) == 0 {
		return nil, ErrInvalid.Errorf("the request has no command")
	}
	if _, err := s.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streams.urls.GetExec(req)
}

// Attach returns the URL at which the container's streams will be.
func (s *server) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if s.rt.Attach == nil {
		return nil, unimplemented("Attach")
	}
	if _, err := s.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streams.urls.GetAttach(req)
}

// PortForward returns the URL at which the ports will be.
func (s *server) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if s.rt.PortForward == nil {
		return nil, unimplemented("PortForward")
	}
	if _, err := s.readySandbox(req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return s.streams.urls.GetPortForward(req)
}

func (s *server) readySandbox(id string) (*Sandbox, error) {
	sb, err := s.index.sandbox(id)
	if err != nil {
		return nil, err
	}
	if sb == nil {
		return nil, ErrNotFound.Errorf("sandbox %q: not found", id)
	}
	dup := sb.copy()
	if !dup.Ready {
		return nil, ErrFailedPrecondition.Errorf("sandbox %q: it is stopped", dup.ID)
	}
	return dup, nil
}

// streamRuntime is what the streaming server calls for a token.
type streamRuntime struct{ s *server }

// Exec runs the command. The streaming server sends an exitError's code on.
func (r streamRuntime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	c, err := r.s.running(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(podContext(ctx, c.Sandbox))
	defer cancel()
	var code int32
	err = r.s.guard("Exec", func() (err error) {
		code, err = r.s.rt.Exec(ctx, c, cmd, streamsOf(ctx, in, out, errOut, tty, sizes))
		return err
	})
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}

// Attach joins the container's streams.
func (r streamRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	c, err := r.s.running(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(podContext(ctx, c.Sandbox))
	defer cancel()
	return r.s.guard("Attach", func() error {
		return r.s.rt.Attach(ctx, c, streamsOf(ctx, in, out, errOut, tty, sizes))
	})
}

// PortForward carries one connection.
func (r streamRuntime) PortForward(ctx context.Context, id string, port int32, conn io.ReadWriteCloser) error {
	sb, err := r.s.readySandbox(id)
	if err != nil {
		return err
	}
	return r.s.guard("PortForward", func() error {
		return r.s.rt.PortForward(podContext(ctx, sb), sb, port, conn)
	})
}

func streamsOf(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) Streams {
	st := Streams{Stdin: in, Stdout: out, Stderr: errOut, TTY: tty}
	if tty && sizes != nil {
		st.Resize = forwardSizes(ctx, sizes)
	}
	return st
}

// forwardSizes keeps only the latest size for an author who is slow to read.
func forwardSizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan Size {
	out := make(chan Size, 1)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case <-out: // drop the one that nobody took
				default:
				}
				out <- Size(size)
			}
		}
	}()
	return out
}

// exitError has the methods by which the streaming server knows an exit code.
type exitError int32

func (e exitError) Error() string {
	return fmt.Sprintf("command terminated with exit code %d", int32(e))
}
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e) }

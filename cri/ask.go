package cri

import (
	"context"
	"io"

	"github.com/nodekit-project/nodekit/cri/internal/stream"
)

// streams returns the functions for the streaming server: the author's, for running
// containers and ready sandboxes.
func (s *server) streams() stream.Functions {
	f := stream.Functions{
		Running: func(id string) error { _, err := s.running(id); return err },
		Ready:   func(id string) error { _, err := s.ready(id); return err },
	}
	if s.rt.Exec != nil {
		f.Exec = s.exec
	}
	if s.rt.Attach != nil {
		f.Attach = s.attach
	}
	if s.rt.PortForward != nil {
		f.PortForward = s.portForward
	}
	return f
}

func (s *server) exec(ctx context.Context, id string, cmd []string, ends stream.Streams) (code int32, err error) {
	c, err := s.running(id)
	if err != nil {
		return 0, err
	}
	ctx = podContext(ctx, c.Sandbox.record())
	err = s.guard("Exec", func() (err error) {
		code, err = s.rt.Exec(ctx, c, cmd, viewStreams(ctx, ends))
		return err
	})
	return code, err
}

func (s *server) attach(ctx context.Context, id string, ends stream.Streams) error {
	c, err := s.running(id)
	if err != nil {
		return err
	}
	ctx = podContext(ctx, c.Sandbox.record())
	return s.guard("Attach", func() error { return s.rt.Attach(ctx, c, viewStreams(ctx, ends)) })
}

func (s *server) portForward(ctx context.Context, id string, port int32, conn io.ReadWriteCloser) error {
	sb, err := s.ready(id)
	if err != nil {
		return err
	}
	ctx = podContext(ctx, sb.record())
	return s.guard("PortForward", func() error { return s.rt.PortForward(ctx, sb, port, conn) })
}

func viewStreams(ctx context.Context, e stream.Streams) Streams {
	st := Streams{Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr, TTY: e.TTY}
	if e.TTY {
		st.Resize = stream.Latest(ctx, e.Sizes, func(s stream.Size) Size { return Size(s) })
	}
	return st
}

// running returns a running container for the author.
func (s *server) running(id string) (*Container, error) {
	c, err := s.table.Container(id)
	if err != nil {
		return nil, err
	}
	view := viewContainer(c.Copy())
	if !view.Running() {
		return nil, ErrFailedPrecondition.Errorf("container %q: it is not running", view.ID)
	}
	return view, nil
}

// ready returns a ready sandbox for the author.
func (s *server) ready(id string) (*Sandbox, error) {
	sb, err := s.table.Sandbox(id)
	if err != nil {
		return nil, err
	}
	view := viewSandbox(sb.Copy())
	if !view.Ready {
		return nil, ErrFailedPrecondition.Errorf("sandbox %q: it is stopped", view.ID)
	}
	return view, nil
}

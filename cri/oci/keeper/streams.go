package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Process is a program that was executed in a container.
type Process struct {
	// Terminal is its terminal, which the caller closes; nil without one.
	Terminal *os.File
	session  *session
}

// Exec runs a program by the runtime command in cmd, with the three files as
// its standard streams unless it has a terminal. The program is killed when
// ctx ends before it, and when the keeper dies: then Wait says fault.Unavailable.
func (c *Client) Exec(ctx context.Context, cmd *Command, files [3]*os.File) (*Process, error) {
	s, err := c.call(ctx, &wire.Request{Op: wire.OpExec, Command: cmd}, files[:]...)
	if err != nil {
		return nil, err
	}
	p := &Process{session: s}
	if len(s.files) > 0 {
		p.Terminal = s.files[0]
	}
	return p, nil
}

// Wait returns the program's exit code, once it has ended. Call it once.
func (p *Process) Wait() (int32, error) {
	err := p.session.next()
	err = errors.Join(err, p.session.close())
	if err != nil {
		return 0, err
	}
	return p.session.reply.Exit.Code, nil
}

// Resize sets the size of a terminal.
func Resize(tty *os.File, columns, rows uint16) error { return wire.ResizeTerminal(tty, columns, rows) }

// Attached is a connection to a container's streams.
type Attached struct {
	session *session
	mu      sync.Mutex // one frame at a time
}

// Attach joins the container's streams. stdin says that the caller will write
// to its standard input.
func (c *Client) Attach(ctx context.Context, id string, stdin bool) (*Attached, error) {
	s, err := c.call(ctx, &wire.Request{Op: wire.OpAttach, ID: id, Attach: &wire.AttachRequest{Stdin: stdin}})
	if err != nil {
		return nil, err
	}
	return &Attached{session: s}, nil
}

// Copy passes the container's output on until it ends (nil), the writers fail
// or ctx of Attach ends.
func (a *Attached) Copy(stdout, stderr io.Writer) error {
	buf := make([]byte, wire.MaxFrame)
	for {
		kind, data, err := wire.ReadFrame(a.session.conn, buf)
		if a.session.ctx.Err() != nil {
			return a.session.ctx.Err()
		}
		if err != nil {
			return a.session.lost(err)
		}
		to := stdout
		switch kind {
		case wire.FrameEnd:
			return nil
		case wire.FrameFault:
			return fault.Aborted.Wrap(errors.New(string(data)))
		case wire.FrameStderr:
			to = stderr
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(data); err != nil {
			return err
		}
	}
}

// Write writes to the container's standard input.
func (a *Attached) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(len(p), n+wire.MaxFrame)]
		if err := a.frame(wire.FrameStdin, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// CloseStdin says that no more input comes. The container sees its end only if
// it was started with StdinOnce.
func (a *Attached) CloseStdin() error { return a.frame(wire.FrameStdinClose, nil) }

// Resize sets the size of the container's terminal.
func (a *Attached) Resize(columns, rows uint16) error {
	size := binary.BigEndian.AppendUint16(nil, columns)
	return a.frame(wire.FrameResize, binary.BigEndian.AppendUint16(size, rows))
}

func (a *Attached) frame(kind byte, payload []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return wire.WriteFrame(a.session.conn, kind, payload)
}

// Close leaves the container's streams.
func (a *Attached) Close() error { return a.session.close() }

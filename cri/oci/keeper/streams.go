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

// Process is a program executed in a container.
type Process struct {
	// Terminal is the program's terminal, which the caller must close; nil without one.
	Terminal *os.File
	session  *session
}

// Exec executes a program in a container by running the OCI runtime command in cmd.
// files are its standard streams unless it has a terminal. The call is not repeated
// with another keeper. The program is killed if ctx ends first or the keeper dies; in
// the latter case Wait returns fault.Unavailable.
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

// Wait waits until the program has ended and returns its exit code. Call it only once.
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

// Attach connects to the container's streams. stdin says whether the caller will write
// to its standard input.
func (c *Client) Attach(ctx context.Context, id string, stdin bool) (*Attached, error) {
	s, err := c.call(ctx, &wire.Request{Op: wire.OpAttach, ID: id, Attach: &wire.AttachRequest{Stdin: stdin}})
	if err != nil {
		return nil, err
	}
	return &Attached{session: s}, nil
}

// Copy copies the container's output until it ends (nil), a writer fails, or the ctx of
// Attach ends.
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

// CloseStdin signals that no more input follows. The container sees the end of its
// input only if it was started with StdinOnce.
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

// Close disconnects from the container's streams.
func (a *Attached) Close() error { return a.session.close() }

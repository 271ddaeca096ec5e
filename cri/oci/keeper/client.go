// Package keeper is the process that outlives the runtime server: parent of
// every container, owner of its standard streams, writer of its log and
// witness of its exit. The server talks to it over a root-only unix socket
// (Client); one keeper serves one run directory. It starts and executes
// containers by running the OCI runtime, and knows nothing of images, pods,
// networks or the CRI. It links neither grpc nor k8s.io.
//
// What survives what:
//
//   - The server is killed, restarted or replaced at any instant: containers run
//     on, logs are written on, and exits wait in the keeper's journal until a
//     server has acknowledged them.
//   - The keeper is killed: its containers lose the readers of their output.
//     Lost is, of each output, what its pipe or terminal holds (64 KiB unless
//     the container changed it), what was read and not yet written (32 KiB) and
//     an unfinished line (16 KiB); and exits that happen until the server finds
//     out, ends those containers and reports them as unknown. Exits journalled
//     before are kept.
//
// The rule for exits is peek, record, consume: an exit is read without reaping
// the process, written to the journal and synced, and only then is the process
// reaped and anybody told. The same rule for output (tee(2), and the read ends
// held by the server as well) is not implemented.
//
// All methods of Client are safe for concurrent use.
package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// The messages that a caller makes or gets.
type (
	// Hello is who answers.
	Hello = wire.Hello
	// Command is an invocation of the OCI runtime.
	Command = wire.Command
	// StartRequest says how a container is started.
	StartRequest = wire.StartRequest
	// Status is what the keeper knows of a container that it started.
	Status = wire.Status
	// Exit is how a process ended.
	Exit = wire.Exit
)

// Client talks to the keeper of a run directory. It holds no connection:
// every call makes its own, so it stays usable when the keeper is replaced.
// Calls fail with fault.Unavailable when no keeper answers, and with
// fault.Exhausted when the caller has no means left to ask one.
type Client struct {
	run string
}

// Launch says how a keeper is started where none runs.
type Launch struct {
	Binary string // the keeper program, absolute
	State  string // directory of its journal, made by the caller; survives a reboot
	Run    string // directory of its socket, made by the caller; root only
	Log    string // file for what it has to say
	// Place puts a process, and so the keeper that it starts a moment later, where
	// it is to live: in a cgroup that lives on when the caller's is killed. Its
	// error is Start's, and no keeper was started then. Nil leaves it where the
	// caller is.
	Place func(ctx context.Context, pid int) error
}

// NewClient returns the client of the keeper in a run directory, which need not
// be there yet.
func NewClient(run string) *Client { return &Client{run: run} }

// Start starts a keeper and returns once it accepts calls. It is no child of
// the caller. Where another keeper runs already, or was faster, nothing is done.
func Start(ctx context.Context, l Launch) error {
	err := l.start(ctx)
	if err == nil || errors.Is(err, fault.AlreadyExists) {
		return nil
	}
	return fmt.Errorf("starting keeper %q: %w", l.Binary, err)
}

func (l Launch) start(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { _ = r.Close() })()
	log, err := os.OpenFile(l.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer log.Close()
	// Not CommandContext: the launcher is gone in a millisecond, and the
	// keeper is to live on when ctx ends.
	cmd := exec.Command(l.Binary, "start", "--state", l.State, "--run", l.Run)
	cmd.Stderr, cmd.ExtraFiles = log, []*os.File{w}
	err = l.launch(ctx, cmd)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return wire.AwaitReady(r)
}

// launch runs the launcher: it waits for a word on its standard input, starts
// the keeper and ends. When the word does not come, because Place failed or this
// process died, it ends without.
func (l Launch) launch(ctx context.Context, cmd *exec.Cmd) error {
	word, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if l.Place != nil {
		err = l.Place(ctx, cmd.Process.Pid)
	}
	if err == nil {
		_, err = io.WriteString(word, wire.Launch)
	}
	err = errors.Join(err, word.Close())
	return errors.Join(err, cmd.Wait())
}

// dial tells a keeper that is gone from a caller that has run out of
// descriptors, say: the first is replaced, and its containers are ended.
func (c *Client) dial() (*net.UnixConn, error) {
	conn, err := wire.Dial(c.run, wire.SocketName)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED):
		return nil, fault.Unavailable.Errorf("calling the keeper: %w", err)
	}
	return nil, fault.Exhausted.Errorf("calling the keeper: %w", err)
}

// call sends a request and reads the first reply.
func (c *Client) call(ctx context.Context, req *wire.Request, files ...*os.File) (*session, error) {
	req.Version = wire.Protocol
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() }), ctx: ctx}
	if err := wire.Send(conn, req, files...); err != nil {
		return nil, errors.Join(s.lost(err), s.close())
	}
	if err := s.next(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// session is a call under way.
type session struct {
	conn  *net.UnixConn
	stop  func() bool
	ctx   context.Context
	reply wire.Reply
	files []*os.File
}

// next reads the following reply.
func (s *session) next() (err error) {
	s.reply = wire.Reply{}
	if s.files, err = wire.Receive(s.conn, &s.reply); err != nil {
		return s.lost(err)
	}
	return s.reply.Err()
}

// lost says why a connection ended early.
func (s *session) lost(err error) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return fault.Unavailable.Errorf("the keeper went away: %w", err)
}

func (s *session) close() error {
	s.stop()
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// simple makes a call with one reply.
func (c *Client) simple(ctx context.Context, req *wire.Request) (wire.Reply, error) {
	s, err := c.call(ctx, req)
	if err != nil {
		return wire.Reply{}, err
	}
	return s.reply, s.close()
}

// Hello asks who is there.
func (c *Client) Hello(ctx context.Context) (Hello, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpHello})
	if err != nil {
		return Hello{}, err
	}
	return *r.Hello, nil
}

// Start starts a container by the runtime command in r, which leaves the
// container running and ends. It returns the container's process id, or its
// exit if it has ended already. Starting a container again does nothing; a
// start that failed leaves nothing behind in the keeper, and what it left
// elsewhere is for the runtime's delete. ctx does not interrupt a start.
func (c *Client) Start(ctx context.Context, id string, r *StartRequest) (Status, error) {
	rep, err := c.simple(context.WithoutCancel(ctx), &wire.Request{Op: wire.OpStart, ID: id, Start: r})
	if err != nil {
		return Status{}, err
	}
	return *rep.Status, nil
}

// Runtime runs a command of the OCI runtime that starts no process.
func (c *Client) Runtime(ctx context.Context, cmd *Command) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpRuntime, Command: cmd})
	return err
}

// Signal sends a signal to a container's first process. It does nothing when
// the container has ended; fault.NotFound when the keeper does not know it.
func (c *Client) Signal(ctx context.Context, id string, sig unix.Signal) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpSignal, ID: id, Signal: int(sig)})
	return err
}

// Wait returns how the container ended, once it has. fault.NotFound when the
// keeper does not know it.
func (c *Client) Wait(ctx context.Context, id string) (Exit, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpWait, ID: id})
	if err != nil {
		return Exit{}, err
	}
	return *r.Exit, nil
}

// List returns every container that the keeper knows.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpList})
	return r.List, err
}

// Watch calls ended for every exit that was not acknowledged, past and future,
// and acknowledges it when ended returns nil. It returns when ctx ends, with
// nil, or when the keeper goes away, with fault.Unavailable. What was not
// acknowledged comes again at the next Watch.
func (c *Client) Watch(ctx context.Context, ended func(Exit) error) error {
	req := &wire.Request{Op: wire.OpWatch, Version: wire.Protocol}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	s := &session{conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() }), ctx: ctx}
	defer s.close()
	if err := wire.Send(conn, req); err != nil {
		return s.lost(err)
	}
	for {
		err := s.next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ended(*s.reply.Exit); err != nil {
			return err
		}
		// It is on record, whether or not ctx has ended since.
		if err := c.Ack(context.WithoutCancel(ctx), s.reply.Exit.ID); err != nil {
			return err
		}
	}
}

// Ack tells the keeper that the exit of a container is on record elsewhere.
func (c *Client) Ack(ctx context.Context, id string) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpAck, ID: id})
	return err
}

// Remove kills the container if it runs, forgets it and acknowledges its exit.
// Idempotent.
func (c *Client) Remove(ctx context.Context, id string) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpRemove, ID: id})
	return err
}

// Reopen opens the container's log file anew after a rotation.
func (c *Client) Reopen(ctx context.Context, id string) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpReopen, ID: id})
	return err
}

// Process is a program that was executed in a container.
type Process struct {
	// Terminal is its terminal, which the caller closes; nil without one.
	Terminal *os.File
	session  *session
}

// Exec runs a program by the runtime command in cmd, with the three files as
// its standard streams unless it has a terminal. The program is killed when
// ctx ends before it.
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

// Shutdown ends the keeper and returns when its process is gone.
// fault.FailedPrecondition when it still has containers; nil when there is no
// keeper.
func (c *Client) Shutdown(ctx context.Context) error {
	hello, err := c.Hello(ctx)
	if errors.Is(err, fault.Unavailable) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(hello.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil // gone meanwhile
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	if _, err := c.simple(ctx, &wire.Request{Op: wire.OpShutdown}); err != nil {
		return err
	}
	return awaitEnd(ctx, pidfd)
}

func awaitEnd(ctx context.Context, pidfd *os.File) error {
	defer context.AfterFunc(ctx, func() { _ = pidfd.Close() })()
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

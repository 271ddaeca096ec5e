// Package keeper is the client of the keeper, the process that outlives the runtime
// server: it is the parent of every container, owns its standard streams, writes its
// log and witnesses its exit. The server talks to it over a root-only unix socket
// (Client); one keeper serves one run directory. The keeper starts containers, and
// executes programs in them, by running the OCI runtime. It knows nothing of images,
// pods, networks or the CRI, and links neither grpc nor k8s.io.
//
// # Two processes
//
// The keeper's parent is its anchor, the same program in a role so small that it never
// needs to be replaced. The anchor starts the keeper, and a new one when that ends. It
// adopts the keeper's children, and reaps none that a keeper has not seen. It holds a
// copy of every descriptor that matters. The death of a keeper therefore closes no pipe
// and no terminal, a container that writes meanwhile waits a few milliseconds at worst,
// and the next keeper continues with what it finds in the anchor: running containers,
// starts in progress, unseen exits. If the anchor dies, the keeper becomes the anchor.
// An upgrade is the same as a crash: it happens by Replace, or at the death of a keeper
// whose program has since been replaced by another. If the new program does not start
// serving, the anchor falls back to the last one that did.
//
// The rule against loss is peek, record, consume. An exit is read without reaping the
// process and written to the journal; only then is the process reaped and anybody told.
// Output is copied with tee(2) and announced, with its offset in the log, in a ledger
// that the anchor holds in memory; it is moved from the container's pipe into one that
// only the keeper writes to, written to the log, and then consumed. Whenever a keeper
// is killed, the next one can tell which bytes are in the log. An unfinished line stays
// in the pipe for at most a second.
//
// # What survives what
//
//   - The server is killed, restarted or replaced at any instant: containers keep running,
//     logs are still written, and exits wait in the keeper's journal until a server has
//     acknowledged them.
//   - The keeper is killed, even while it starts, with or without the server: no output
//     through a pipe is lost, no exit code and no start. That includes the output of a
//     container that was removed before its disk responded (Shutdown does not wait for
//     that). A terminal cannot be copied without being read: what one read(2) returns, at
//     most 4 KiB, is lost if the keeper dies between it and the following write(2). The OCI
//     runtime hands a terminal over only once: if the keeper dies between the accept(2) of
//     it and the following sendmsg(2), the container is killed and its exit is Lost.
//     Programs in Exec are killed; their callers, and those of Attach, get
//     fault.Unavailable.
//   - The anchor is killed: the same, and nothing is lost of a container that the current
//     keeper started. A container started by an earlier keeper was the anchor's child: its
//     exit code comes from the kernel (Linux 6.15 and later); without that, its exit is
//     Lost, with code 137. The same holds for a container whose start an earlier keeper had
//     begun, if it is found in its cgroup; otherwise its exit is Lost, and the server must
//     kill what runs.
//   - Both are killed, or one in the few milliseconds before the other is back: the
//     containers' output has no readers. For each output, what its pipe or terminal holds
//     is lost (64 KiB unless the container changed it), and so are exits that happen before
//     the server notices, ends those containers and reports them as unknown. Exits already
//     journalled are kept. Shutting down the scope or cgroup that both are in costs the
//     same.
//   - The machine goes down: what the kernel has not yet written to disk is lost, exits and
//     logs alike, since they are not synced: half a minute of them by default. No container
//     outlives the machine.
//
// If a container's first process has requested a parent-death signal
// (PR_SET_PDEATHSIG), it gets that signal although the container is not meant to end:
// when the OCI runtime that started it exits, if it had asked by then; when the keeper
// that started it is killed or replaced; and when any anchor that has adopted it dies.
//
// A full disk loses the lines written meanwhile; a slow one delays only its own
// container. However, a keeper that is killed while one of its threads waits for a disk
// ends only when the disk responds, and until then there is no other keeper.
//
// State that is damaged or cannot be taken over affects only its own container, which
// is killed and gets a Lost exit. A start fails if the anchor has no descriptors left
// for it.
//
// # Versions
//
// The protocol is versioned, and both sides use what both know: a keeper answers
// requests of every version up to its own, and a client requests no higher version than
// an operation needs. What a keeper leaves in the anchor can be read by keepers of
// later versions and of the one before. A keeper of protocol 1 has no anchor: it serves
// a newer server as it served its own, and is replaced once it has no containers;
// replacing it earlier ends them, this one time.
//
// All methods of Client are safe for concurrent use.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// The messages that a caller makes or gets.
type (
	// Hello identifies the keeper that answers.
	Hello = wire.Hello
	// Command is an invocation of the OCI runtime.
	Command = wire.Command
	// View is the mount namespace of an invocation.
	View = wire.View
	// StartRequest says how a container is started.
	StartRequest = wire.StartRequest
	// Status is what the keeper knows of a container that it started.
	Status = wire.Status
	// Exit describes how a process ended.
	Exit = wire.Exit
)

// Client talks to the keeper of a run directory. It stays usable when the keeper is
// replaced; it keeps a connection for a moment after a call only to make the next call
// faster. Unless a method says otherwise, a call whose keeper is killed is repeated
// with the next keeper, which takes a few milliseconds. Calls fail with
// fault.Unavailable if no keeper answers and none is coming back, and with
// fault.Exhausted if the caller lacks the resources to connect.
type Client struct {
	run  string
	idle idle
}

// NewClient returns the client of the keeper in a run directory. The keeper need not
// exist yet.
func NewClient(run string) *Client { return &Client{run: run} }

// simple makes a call with one reply.
func (c *Client) simple(ctx context.Context, req *wire.Request) (wire.Reply, error) {
	s, err := c.call(ctx, req)
	if err != nil {
		return wire.Reply{}, err
	}
	return s.reply, c.leave(s, req.Op)
}

// leave ends a session whose call has been answered.
func (c *Client) leave(s *session, op string) error {
	if wire.InTurn(op) && s.stop() {
		c.idle.put(s.conn)
		return nil
	}
	return s.close()
}

// Hello asks the keeper for its protocol version and processes.
func (c *Client) Hello(ctx context.Context) (Hello, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpHello})
	if err != nil {
		return Hello{}, err
	}
	return *r.Hello, nil
}

// Start starts a container by running the OCI runtime command in r, which must leave
// the container running and exit. It returns the container's process id, or its exit if
// it has already ended. Starting a container again does nothing. A failed start leaves
// nothing in the keeper; what it leaves elsewhere must be removed with the OCI
// runtime's delete. A start in progress when a keeper dies is completed by the next
// one. ctx does not interrupt a start; Remove and a Signal of SIGKILL do.
func (c *Client) Start(ctx context.Context, id string, r *StartRequest) (Status, error) {
	rep, err := c.simple(context.WithoutCancel(ctx), &wire.Request{Op: wire.OpStart, ID: id, Start: r})
	if err != nil {
		return Status{}, err
	}
	return *rep.Status, nil
}

// Runtime runs an OCI runtime command that starts no process.
func (c *Client) Runtime(ctx context.Context, cmd *Command) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpRuntime, Command: cmd})
	return err
}

// Signal sends a signal to a container's first process. A container that has ended or
// is being started does not get it, except that SIGKILL ends a start once the OCI
// runtime runs. Signal then waits up to moment (at most one second) for the
// container to end, which usually saves the caller a Wait. exit is nil if the container
// has not ended by then, if the keeper went away after sending the signal, or if it is
// an earlier version that does not wait. sent is the time of the signal. The signal is
// not sent twice, unless the keeper dies while sending it. If the keeper does not know
// the container, the error is fault.NotFound.
func (c *Client) Signal(ctx context.Context, id string, sig unix.Signal, moment time.Duration) (exit *Exit, sent time.Time, err error) {
	req := &wire.Request{Op: wire.OpSignal, ID: id, Signal: int(sig), Await: max(1, int(moment.Milliseconds()))}
	s, err := c.call(ctx, req)
	sent = time.Now()
	if err != nil {
		return nil, sent, err
	}
	switch err := s.next(); {
	case ctx.Err() != nil:
		return nil, sent, errors.Join(ctx.Err(), s.close())
	case err != nil:
		return nil, sent, s.close()
	}
	return s.reply.Exit, sent, c.leave(s, req.Op)
}

// Wait waits until the container has ended and returns its exit. If the keeper does not
// know the container, or has forgotten it because its start failed, the error is
// fault.NotFound.
func (c *Client) Wait(ctx context.Context, id string) (*Exit, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpWait, ID: id})
	return r.Exit, err
}

// List returns all containers that the keeper knows. It waits briefly for starts in
// progress: see Status.Starting.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpList})
	return r.List, err
}

// Watch calls ended for every unacknowledged exit, past and future, and acknowledges
// the exit if ended returns nil. It returns nil when ctx ends, fault.Unavailable when
// the keeper goes away, and an error of ended. Exits not acknowledged are delivered
// again by the next Watch.
func (c *Client) Watch(ctx context.Context, ended func(Exit) error) error {
	req := &wire.Request{Op: wire.OpWatch, Version: wire.Since(wire.OpWatch)}
	if _, err := c.Hello(ctx); err != nil { // waits for a keeper that is coming back
		return err
	}
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
		// It is recorded, whether or not ctx has ended since.
		if err := c.Ack(context.WithoutCancel(ctx), s.reply.Exit.ID); err != nil {
			return err
		}
	}
}

// Ack tells the keeper that the exit of a container has been recorded elsewhere.
func (c *Client) Ack(ctx context.Context, id string) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpAck, ID: id})
	return err
}

// Remove kills the container if it is running or being started, forgets it, and
// acknowledges its exit. Idempotent.
func (c *Client) Remove(ctx context.Context, id string) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpRemove, ID: id})
	return err
}

// Reopen reopens the container's log file after a rotation.
func (c *Client) Reopen(ctx context.Context, id string) error {
	_, err := c.simple(ctx, &wire.Request{Op: wire.OpReopen, ID: id})
	return err
}

// Anchored reports whether the keeper's anchor, or a keeper about to become one, is
// alive. If so, a keeper that does not answer is on its way back, and no other may be
// started.
func (c *Client) Anchored() (bool, error) {
	return anchor.Locked(filepath.Join(c.run, wire.LockName))
}

// Shutdown ends the keeper and its anchor, and returns when their processes are gone.
// If the keeper still has containers, the error is fault.FailedPrecondition; if there
// is no keeper, Shutdown returns nil.
func (c *Client) Shutdown(ctx context.Context) error {
	hello, err := c.Hello(ctx)
	if errors.Is(err, fault.Unavailable) {
		return nil
	}
	if err != nil {
		return err
	}
	processes := openProcesses(hello.PID, hello.Anchor)
	defer wire.CloseAll(processes)
	if _, err := c.simple(ctx, &wire.Request{Op: wire.OpShutdown}); err != nil {
		return err
	}
	for _, p := range processes {
		if err := awaitEnd(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// openProcesses opens pidfds of those processes that exist.
func openProcesses(pids ...int) (list []*os.File) {
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK); pid > 1 && err == nil {
			list = append(list, os.NewFile(uintptr(fd), "pidfd"))
		}
	}
	return list
}

// Replace has a keeper of another program take over all containers; the anchor stays.
// It returns once the new keeper answers. A program that is not a keeper changes
// nothing; if the new keeper does not come up, the previous program continues, and the
// error is fault.FailedPrecondition. A keeper of protocol 1 returns the same error,
// because it has no anchor and would end with its containers.
func (c *Client) Replace(ctx context.Context, program string) error {
	before, err := c.Hello(ctx)
	if err != nil {
		return err
	}
	s, err := c.once(ctx, &wire.Request{Op: wire.OpReplace, Program: program})
	if err == nil {
		err = s.close()
	}
	if err != nil && !errors.Is(err, fault.Unavailable) {
		return err
	}
	for {
		now, err := c.Hello(ctx)
		if err != nil {
			return err
		}
		if runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", now.PID)); err == nil && now.PID != before.PID {
			return checkProgram(runs, program)
		}
		time.Sleep(returnPause)
	}
}

// checkProgram returns an error if the new keeper does not run the requested program.
func checkProgram(runs os.FileInfo, program string) error {
	want, err := os.Stat(program)
	if err == nil && !os.SameFile(runs, want) {
		err = fault.FailedPrecondition.Errorf("the keeper %q does not come up, and the one before it goes on", program)
	}
	return err
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

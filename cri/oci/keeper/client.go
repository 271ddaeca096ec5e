// Package keeper is the process that outlives the runtime server: parent of
// every container, owner of its standard streams, writer of its log and
// witness of its exit. The server talks to it over a root-only unix socket
// (Client); one keeper serves one run directory. It starts and executes
// containers by running the OCI runtime, and knows nothing of images, pods,
// networks or the CRI. It links neither grpc nor k8s.io.
//
// # Two processes
//
// Above the keeper stands its anchor, the same program in a role so small that it
// never needs to be replaced. It starts the keeper, and another one when that
// ends; the keeper's children become its own then, and it reaps none that the
// keeper has not seen; and it holds a copy of every descriptor that matters. So
// the death of a keeper closes no pipe and no terminal, a container that prints
// meanwhile waits some milliseconds at worst, and the next keeper goes on with
// what it finds in the anchor: running containers, starts under way, ends that
// nobody has seen. When the anchor dies, the keeper becomes the anchor. An upgrade
// is the same as a crash: Replace, or the death of a keeper whose program is
// another one by now. Where that does not come up to serve, the anchor goes back to
// the last one that did.
//
// The rule against loss is peek, record, consume. An exit is read without reaping
// the process, written to the journal, and only then is the process
// reaped and anybody told. Output is copied with tee(2) and announced, with its
// place in the log, in a ledger that the anchor holds in memory; it is moved out
// of the container's pipe into one that only the keeper writes to, written to the
// log and then consumed. Whatever moment a keeper is killed in, the next one can
// tell which bytes are in the log. An unfinished line stays in the pipe, for a second
// at most.
//
// # What survives what
//
//   - The server is killed, restarted or replaced at any instant: containers run
//     on, logs are written on, and exits wait in the keeper's journal until a
//     server has acknowledged them.
//   - The keeper is killed, while it starts, too, with or without the server:
//     nothing is lost of output that comes through a pipe, also of a container that
//     was removed before its disk answered (which Shutdown does not wait for), no exit
//     code and no start. Of a terminal, what one read(2) takes, 4 KiB at most, is lost
//     if the keeper dies between that and the write(2) that follows; a terminal cannot
//     be copied without being read. The OCI runtime hands a terminal over once: the
//     container is killed, and its exit Lost, if the keeper dies between the
//     accept(2) of that and the sendmsg(2) that follows. Programs in Exec are
//     killed, and their callers and those of Attach get fault.Unavailable.
//   - The anchor is killed: the same, and nothing is lost of a container that this
//     keeper has started. One that an earlier keeper had started was the anchor's
//     child: its exit code comes from the kernel (Linux 6.15 and later), and
//     without that its exit is Lost, code 137. So it is for one whose start an earlier
//     keeper had begun, when it is found in its cgroup; else its exit is Lost, and what
//     runs is the server's to kill.
//   - Both are killed, or one before the other is there again, some milliseconds:
//     the containers' output has no readers. Lost is, of each output, what its
//     pipe or terminal holds (64 KiB unless the container changed it); and exits
//     that happen until the server finds out, ends those containers and reports
//     them as unknown. Exits journalled before are kept. That is also what a
//     shutdown of the scope or cgroup that they are in costs.
//   - The machine goes down: what the kernel has not written to the disk yet is
//     lost, of exits as of logs, which are not synced: half a minute of them, where
//     nobody has changed that. No container outlives the machine.
//
// A container's first process that has asked for a signal at its parent's death
// (PR_SET_PDEATHSIG) gets it though nothing ends: from the OCI runtime when that has
// started it, if it asked by then, from the keeper that did when that is killed or
// replaced, and from each anchor that has it afterwards.
//
// A full disk loses the lines that are written meanwhile; a slow one delays its
// container and no other. But a keeper that is killed while a thread of it waits for
// a disk ends when that answers, and so long there is no other keeper.
//
// What is damaged, or cannot be taken over, costs its own container, which is killed
// and has a Lost exit. A start that the anchor has no descriptors left for fails.
//
// # Versions
//
// The protocol has a version, and each side does with the other one what both
// know: a keeper answers requests of every version up to its own, and a client
// asks for no more than an operation needs. What a keeper leaves in the anchor
// is read by those of later versions and by the one before. A keeper of protocol 1
// had no anchor: it serves a newer server as it served its own, and is replaced
// when it has no containers; to replace it before ends them, once.
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

// Client talks to the keeper of a run directory. It stays usable when the keeper is
// replaced: a connection that it holds, for a moment after a call, is only for the
// next call to be faster. A call whose keeper is killed is made again to the next one,
// which takes some milliseconds, unless it says otherwise. Calls fail with
// fault.Unavailable when no keeper answers and none is coming back, and with
// fault.Exhausted when the caller has no means left to ask one.
type Client struct {
	run  string
	idle idle
}

// NewClient returns the client of the keeper in a run directory, which need not
// be there yet.
func NewClient(run string) *Client { return &Client{run: run} }

// simple makes a call with one reply.
func (c *Client) simple(ctx context.Context, req *wire.Request) (wire.Reply, error) {
	s, err := c.call(ctx, req)
	if err != nil {
		return wire.Reply{}, err
	}
	return s.reply, c.leave(s, req.Op)
}

// leave ends a session whose call was answered.
func (c *Client) leave(s *session, op string) error {
	if wire.InTurn(op) && s.stop() {
		c.idle.put(s.conn)
		return nil
	}
	return s.close()
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
// elsewhere is for the runtime's delete. A start that was under way when a keeper
// died is ended by the next one. ctx does not interrupt a start; Remove and a Signal of
// SIGKILL do.
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

// Signal sends a signal to a container's first process; one that has ended gets none,
// nor does one that is being started, but that SIGKILL ends the start if the OCI runtime
// runs by now.
// Then it waits for the end, for a moment at most (wire.MaxAwait), which spares the
// caller Wait mostly: nil for a container that has not ended by then, or whose keeper
// went away once it had sent the signal, or is an earlier one that does not wait. sent
// is when the signal was. It is not sent twice, unless the keeper dies while it sends
// it. fault.NotFound when the keeper does not know the container.
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

// Wait returns how the container ended, once it has. fault.NotFound when the
// keeper does not know it, or no more because its start has failed.
func (c *Client) Wait(ctx context.Context, id string) (*Exit, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpWait, ID: id})
	return r.Exit, err
}

// List returns every container that the keeper knows. It waits for starts under
// way, but not for long: see Status.Starting.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	r, err := c.simple(ctx, &wire.Request{Op: wire.OpList})
	return r.List, err
}

// Watch calls ended for every exit that was not acknowledged, past and future,
// and acknowledges it when ended returns nil. It returns when ctx ends, with
// nil, or when the keeper goes away, with fault.Unavailable. What was not
// acknowledged comes again at the next Watch.
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

// Remove kills the container if it runs or is being started, forgets it and acknowledges
// its exit.
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

// Anchored reports whether the keeper's anchor lives, or a keeper that is about to
// be one: then a keeper that does not answer is on its way back, and none is to be
// started in its place.
func (c *Client) Anchored() (bool, error) {
	return anchor.Locked(filepath.Join(c.run, wire.LockName))
}

// Shutdown ends the keeper and its anchor and returns when their processes are
// gone. fault.FailedPrecondition when it still has containers; nil when there is
// no keeper.
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

// openProcesses opens those that there are.
func openProcesses(pids ...int) (list []*os.File) {
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK); pid > 1 && err == nil {
			list = append(list, os.NewFile(uintptr(fd), "pidfd"))
		}
	}
	return list
}

// Replace has a keeper of another program take over: it goes on with all
// containers, and the anchor stays. It returns once the new one answers. A program
// that is no keeper changes nothing, and where one does not come up the program
// before it goes on: fault.FailedPrecondition. That is also what a keeper of
// protocol 1 says, which has no anchor and ends with its containers.
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

// checkProgram reports whether the keeper that came is of the program that was
// asked for.
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

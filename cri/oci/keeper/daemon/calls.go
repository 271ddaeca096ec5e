package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// running returns the container's process and streams, or an error that says why it
// cannot be reached.
func (s *server) running(id string) (*process, *stdio, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, nil, fault.NotFound.Errorf("the keeper has no container %q", id)
	}
	if c.proc == nil {
		return nil, nil, fault.FailedPrecondition.Errorf("container %q is not running", id)
	}
	return c.proc, c.std, nil
}

// signal sends a signal to the container's first process; it is no error if that has
// ended. SIGKILL also ends a start in progress. The reply precedes the wait for the end,
// so that the client knows that the signal was sent: it must not be sent again if this
// keeper dies.
func (s *server) signal(conn *net.UnixConn, req *wire.Request) error {
	c := s.lookup(req.ID)
	proc, _, err := s.running(req.ID)
	if err == nil {
		err = proc.signal(req.Signal)
	}
	if c != nil && errors.Is(err, fault.FailedPrecondition) && req.Signal == int(unix.SIGKILL) {
		err = s.abortStart(c)
	}
	if err != nil && !errors.Is(err, fault.FailedPrecondition) {
		return err
	}
	if err := wire.Send(conn, wire.Reply{}); err != nil || req.Await <= 0 {
		return err
	}
	var exit *wire.Exit
	if c != nil {
		select {
		case <-c.ended:
		case <-time.After(min(time.Duration(req.Await)*time.Millisecond, wire.MaxAwait)):
		}
		exit = s.statusOf(c).Exit
	}
	return wire.Send(conn, wire.Reply{Exit: exit})
}

func (s *server) acknowledge(id string) error {
	c := s.lookup(id)
	if c == nil {
		return nil
	}
	return s.ack(c)
}

func (s *server) reopen(id string) error {
	_, std, err := s.running(id)
	if err != nil {
		return err
	}
	return std.reopen()
}

// wait replies once the container has ended or its start has failed.
func (s *server) wait(conn *net.UnixConn, id string) error {
	unknown := fault.NotFound.Errorf("the keeper has no container %q", id)
	c := s.lookup(id)
	if c == nil {
		return unknown
	}
	select {
	case <-c.ended:
		exit := s.statusOf(c).Exit
		if exit == nil {
			return unknown
		}
		return wire.Send(conn, wire.Reply{Exit: exit})
	case <-gone(conn).Done():
		return nil
	}
}

// watch replies with each unacknowledged exit, past ones first, until the client goes
// away.
func (s *server) watch(conn *net.UnixConn) error {
	client := gone(conn)
	for seq := uint64(0); ; {
		list, changed := s.unacknowledged(seq)
		for _, c := range list {
			seq = c.seq
			if err := wire.Send(conn, wire.Reply{Exit: c.exit}); err != nil {
				return nil // gone
			}
		}
		select {
		case <-changed:
		case <-client.Done():
			return nil
		}
	}
}

// runtime runs an OCI runtime command that starts no process.
func (s *server) runtime(conn *net.UnixConn, cmd *wire.Command) error {
	return done(conn, wire.Reply{}, s.silently(cmd))
}

// silently runs a program to completion without standard streams.
func (s *server) silently(cmd *wire.Command) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	s.children.begin()
	defer s.children.end()
	return s.command(cmd, childFiles{null, null, null}, func(*process) error { return nil })
}

// exec runs a program in a container. The first reply says that it runs, and carries its
// terminal if it has one; the second says how it ended. The program is killed if the
// client goes away.
func (s *server) exec(conn *net.UnixConn, cmd *wire.Command, files []*os.File) error {
	if len(files) != len(childFiles{}) {
		return fault.Invalid.Errorf("exec needs %d descriptors, and came with %d", len(childFiles{}), len(files))
	}
	proc, tty, hold, err := s.beginExec(cmd, childFiles(files))
	wire.CloseAll(files)
	if err != nil {
		return err
	}
	if tty != nil {
		err = wire.Send(conn, wire.Reply{}, tty)
		_ = tty.Close() // the client has it now, or nobody needs it
	} else {
		err = wire.Send(conn, wire.Reply{})
	}
	if err != nil {
		_ = proc.signal(int(unix.SIGKILL))
	}
	ended := make(chan error, 1)
	var out outcome
	go func() {
		var err error
		out, err = s.endOfExec(proc, hold)
		ended <- err
	}()
	select {
	case err := <-ended:
		return done(conn, wire.Reply{Exit: &wire.Exit{Code: out.code, At: out.at, Lost: out.lost}}, err)
	case <-gone(conn).Done():
		return proc.signal(int(unix.SIGKILL))
	}
}

// endOfExec waits for the end of an executed program. If that is not possible, the
// program is killed, because nobody could be told how it ends.
func (s *server) endOfExec(proc *process, hold *holding) (outcome, error) {
	out, err := proc.wait()
	if err != nil {
		s.log.Error("waiting for an exec", "err", err)
		err = errors.Join(err, proc.signal(int(unix.SIGKILL)))
	}
	hold.drop()
	s.children.reap(proc)
	return out, err
}

// beginExec starts the program. If this keeper dies, the next one kills the program,
// because nobody could be told how it ends.
func (s *server) beginExec(cmd *wire.Command, files childFiles) (proc *process, tty *os.File, hold *holding, err error) {
	if err = removePID(cmd); err != nil {
		return nil, nil, nil, err
	}
	hold = s.escrow.newHolding(fmt.Sprintf("%s%x", execID, rand.Uint64()), record{Exec: true, Start: wire.StartRequest{Command: *cmd}})
	s.children.begin()
	defer s.children.end()
	if err = hold.change(func(*content) {}); err != nil {
		return nil, nil, nil, err
	}
	proc, tty, err = s.invoke(hold, files)
	if err == nil {
		if err = hold.change(func(h *content) { h.began(proc) }); err != nil {
			err = errors.Join(err, s.children.abandon(proc))
			wire.CloseAll([]*os.File{tty})
		}
	}
	if err != nil {
		hold.drop()
	}
	return proc, tty, hold, err
}

// attach sends the container's output from now on, and passes on the client's input,
// until either ends.
func (s *server) attach(conn *net.UnixConn, id string, r *wire.AttachRequest) error {
	_, std, err := s.running(id)
	if err != nil {
		return err
	}
	a, err := std.attach()
	if err != nil {
		return err
	}
	defer std.detach(a)
	last := r != nil && r.Stdin && std.once
	if last {
		if err := std.hold.change(func(h *content) { h.rec.Attached = true }); err != nil {
			return err
		}
	}
	if err := wire.Send(conn, wire.Reply{}); err != nil {
		return nil // gone
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		std.feed(conn)
		if last {
			std.closeStdin()
		}
	}()
	for {
		select {
		case c, ok := <-a.queue:
			if !ok {
				return a.finish(conn)
			}
			if wire.WriteFrame(conn, c.frame, c.data) != nil {
				return nil // gone
			}
		case <-left:
			return nil
		}
	}
}

func (a *attachment) finish(conn *net.UnixConn) error {
	kind, text := byte(wire.FrameEnd), ""
	if a.slow {
		kind, text = wire.FrameFault, "the client reads too slowly"
	}
	_ = wire.WriteFrame(conn, kind, []byte(text)) // a client that went away learns nothing
	return nil
}

// shutdown ends the keeper if all its containers have ended. Nothing is started from then
// on.
func (s *server) shutdown(conn *net.UnixConn) error {
	if alive := s.close(); alive > 0 {
		return fault.FailedPrecondition.Errorf("%d containers are running", alive)
	}
	if err := s.escrow.line.Release(); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.over = false
		return err
	}
	defer s.quit()
	return wire.Send(conn, wire.Reply{})
}

// close prevents further starts if all containers have ended, and returns how many have
// not.
func (s *server) close() (alive int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.exit == nil {
			alive++
		}
	}
	s.over = s.over || alive == 0
	return alive
}

// replace ends the keeper in favour of one of another program, which takes over the
// containers. It first gives starts in progress a moment to finish; the client waits for
// the next keeper.
func (s *server) replace(conn *net.UnixConn, program string) error {
	if err := s.silently(&wire.Command{Args: []string{program, "true"}, Dir: "/"}); err != nil {
		return fault.FailedPrecondition.Errorf("the program %q is no keeper: %w", program, err)
	}
	if err := s.escrow.line.Program(program); err != nil {
		return err
	}
	s.children.quiesce()
	defer s.quit()
	return wire.Send(conn, wire.Reply{})
}

package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// container is a container that the keeper started or took over, or an exit that an
// earlier keeper witnessed.
type container struct {
	id string

	// life is held while the container is started or removed.
	life sync.Mutex

	// The fields below are guarded by server.mu.
	proc  *process // nil before the start and after the end
	std   *stdio
	hold  *holding // nil without a process, output or start of this or an earlier keeper
	exit  *wire.Exit
	seq   uint64     // position among the exits of this keeper's life
	entry journal.ID // the exit in the journal; 0 without one
	acked bool       // the server has recorded the exit
	// ended is closed when the exit is known and journalled and the log is complete, or,
	// without an exit, when the start has failed.
	ended chan struct{}
}

func (c *container) status() wire.Status {
	s := wire.Status{ID: c.id, Exit: c.exit, Starting: c.proc == nil && c.exit == nil}
	if c.proc != nil {
		s.PID = c.proc.pid
	}
	return s
}

// drainLimit is how long the end of a container is held back while something still holds
// its output open: a process that it left in the host's PID namespace.
const drainLimit = 500 * time.Millisecond

// logLimit is how much longer it is held back until everything that the container wrote
// is in its log. This is for a disk that does not respond: what it delays is late, not
// lost.
const logLimit = 5 * time.Second

// start runs the OCI runtime, which must start a container and exit. A container that was
// already started is not started again.
func (s *server) start(id string, r *wire.StartRequest) (wire.Status, error) {
	c, err := s.claim(id)
	if err != nil {
		return wire.Status{}, err
	}
	defer c.life.Unlock()
	if st := s.statusOf(c); st.PID != 0 || st.Exit != nil {
		return st, nil
	}
	if err := s.launch(c, r); err != nil {
		s.forget(c)
		return wire.Status{}, err
	}
	return s.statusOf(c), nil
}

// launch starts c's process, its streams and its OOM watch.
func (s *server) launch(c *container, r *wire.StartRequest) (err error) {
	if err := removePID(&r.Command); err != nil {
		return err
	}
	oom := watchOOM(r.OOMFile)
	hold := s.escrow.newHolding(c.id, record{Key: rand.Uint64(), Start: *r, OOM: oom.before})
	s.mu.Lock()
	c.hold = hold // for abortStart
	s.mu.Unlock()
	std := s.streams.newStdio(hold, s.log.With("container", c.id))
	defer func() {
		if err != nil {
			hold.drop()
			std.discard()
		}
	}()
	s.children.begin()
	defer s.children.end()
	child, err := std.open()
	if err != nil {
		wire.CloseAll(child[:])
		return fmt.Errorf("opening streams: %w", err)
	}
	proc, tty, err := s.invoke(hold, child)
	wire.CloseAll(child[:])
	if err != nil {
		var failed *runtimeError
		if errors.As(err, &failed) {
			failed.output = std.complaint()
		}
		return err
	}
	return s.settle(c, std, proc, tty, oom)
}

// settle makes c a running container. After an error the process is killed.
func (s *server) settle(c *container, std *stdio, proc *process, tty *os.File, oom oomWatch) (err error) {
	if tty != nil {
		err = std.useTerminal(tty)
	}
	if err == nil {
		err = std.hold.change(func(h *content) {
			h.began(proc)
			h.set(roleConsole, -1)
		})
	}
	if err == nil {
		err = std.hold.kept()
	}
	if err == nil {
		err = s.watchOver(c, std, proc, oom)
	}
	if err != nil {
		forget := std.hold.change(func(h *content) { h.set(roleProcess, -1) })
		return errors.Join(err, forget, s.children.abandon(proc))
	}
	return nil
}

// attend assigns the process, nil for none, and the streams to the container.
func (s *server) attend(c *container, std *stdio, proc *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.proc, c.std, c.hold = proc, std, std.hold
}

// watchOver starts reading the output of a container and waiting for its end.
func (s *server) watchOver(c *container, std *stdio, proc *process, oom oomWatch) error {
	if err := std.pump(); err != nil {
		return err
	}
	s.attend(c, std, proc) // before its end can be seen
	err := proc.onEnd(func() { s.witness(c, proc, oom) })
	if err != nil {
		s.attend(c, std, nil)
	}
	return err
}

// witness records the end of the container's process: first in the journal, then by
// reaping the process, then for those who wait.
func (s *server) witness(c *container, proc *process, oom oomWatch) {
	out, err := proc.outcome()
	if err != nil {
		// It has ended nevertheless, and somebody may be waiting for that.
		s.log.Error("waiting for a container", "container", c.id, "err", err)
		out = outcome{code: lostCode, at: time.Now(), lost: true}
	}
	exit := &wire.Exit{ID: c.id, Code: out.code, At: out.at, OOM: oom.killed(out.code), Lost: out.lost}
	entry, err := s.journal.Note("exit", exit)
	if err != nil {
		// The anchor keeps the exit while it lives.
		s.log.Error("recording an exit", "container", c.id, "code", exit.Code, "err", err)
	}
	hold := c.hold
	if err = hold.keepExit(exit, entry == 0); err != nil {
		s.log.Error("keeping an exit", "container", c.id, "err", err)
		go s.keepExitLater(c, hold, proc, exit, entry == 0)
	} else {
		s.children.reap(proc)
	}
	s.conclude(c, exit, entry)
}

// keepExitLater is for an exit that the anchor could not be told of. Until that succeeds,
// the process is not reaped: otherwise the next keeper would mistake a process that
// reuses its id for it.
func (s *server) keepExitLater(c *container, hold *holding, proc *process, exit *wire.Exit, sole bool) {
	for hold.keepExit(exit, sole) != nil {
		time.Sleep(putLimit)
	}
	s.children.reap(proc)
	s.mu.Lock()
	acked := c.acked
	s.mu.Unlock()
	if acked {
		if err := hold.forgetExit(); err != nil {
			s.log.Error("confirming an exit", "container", c.id, "err", err)
		}
	}
	hold.release()
}

// conclude publishes the end of a container once its output has ended or, if that takes
// too long, once everything written before the end is in the log.
func (s *server) conclude(c *container, exit *wire.Exit, entry journal.ID) {
	c.std.processEnded()
	select {
	case <-c.std.drained:
	case <-time.After(drainLimit):
		s.awaitLog(c)
	}
	select {
	case <-c.std.drained:
		c.hold.release()
	default:
	}
	c.std.closeStdin()
	if s.publish(c, exit, entry) {
		if err := s.ack(c); err != nil {
			s.log.Error("confirming an exit", "container", c.id, "err", err)
		}
	}
}

// awaitLog waits until the output of an ended container is in its log.
func (s *server) awaitLog(c *container) {
	select {
	case <-c.std.drained:
	case <-c.std.logged():
	case <-time.After(logLimit):
		s.log.Warn("a container's log is late: its disk does not answer", "container", c.id)
	}
}

// publish announces the end to those who wait, and reports whether it was already
// acknowledged, by a server that knew it from an earlier keeper.
func (s *server) publish(c *container, exit *wire.Exit, entry journal.ID) (acked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.proc, c.exit, c.entry = nil, exit, entry
	s.exits++
	c.seq = s.exits
	close(c.ended)
	s.notify()
	return c.acked
}

// remove kills the container if it is running, and forgets it.
func (s *server) remove(id string) error {
	c := s.lookup(id)
	if c == nil {
		return nil
	}
	if err := s.takeLife(c); err != nil {
		return err
	}
	defer c.life.Unlock()
	s.mu.Lock()
	proc, std, hold := c.proc, c.std, c.hold
	s.mu.Unlock()
	if proc != nil {
		if err := proc.signal(int(unix.SIGKILL)); err != nil {
			return err
		}
		select {
		case <-c.ended:
		case <-time.After(removeLimit):
			return fault.Unavailable.Errorf("container %q does not end after SIGKILL", id)
		}
	}
	if std != nil {
		if err := hold.rename(fmt.Sprintf("%s%x", removedID, rand.Uint64())); err != nil {
			s.log.Error("keeping the output of a container that is removed", "container", c.id, "err", err)
			hold.drop()
		}
		std.dismiss()
	}
	s.forget(c)
	return s.ack(c)
}

// takeLife locks the container's life, and ends its start if one is in progress.
func (s *server) takeLife(c *container) error {
	if c.life.TryLock() {
		return nil
	}
	taken := make(chan struct{})
	go func() {
		c.life.Lock()
		close(taken)
	}()
	for {
		select {
		case <-taken:
			return nil
		case <-time.After(abortPause):
		}
		if err := s.abortStart(c); err != nil {
			go func() {
				<-taken
				c.life.Unlock()
			}()
			return err
		}
	}
}

// abortStart ends a start of the container that is in progress: the start then fails.
func (s *server) abortStart(c *container) error {
	s.mu.Lock()
	hold := c.hold
	s.mu.Unlock()
	if hold == nil {
		return nil
	}
	return hold.abortStart()
}

// abortPause is the interval of checks whether a start to be ended has a process yet, or
// is over.
const abortPause = 20 * time.Millisecond

// removeLimit bounds the wait for a killed process, which ends as soon as it leaves the
// kernel.
const removeLimit = 10 * time.Second

// ack confirms that the server has recorded the container's exit.
func (s *server) ack(c *container) error {
	s.mu.Lock()
	entry := c.entry
	hold := c.hold
	c.entry, c.acked = 0, true
	s.mu.Unlock()
	switch {
	case entry != 0:
		return s.journal.Done(entry)
	case hold != nil:
		return hold.forgetExit()
	}
	return nil
}

package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// container is a container that the keeper started, or the exit of one that an
// earlier keeper witnessed.
type container struct {
	id string

	// life is held while the container is started or removed.
	life sync.Mutex

	// The fields below are guarded by server.mu.
	proc  *process // nil before it is started and after its end
	std   *stdio
	hold  *holding // nil without a process or output of this or an earlier keeper
	exit  *wire.Exit
	seq   uint64     // position among the exits of this keeper's life
	entry journal.ID // the exit in the journal; 0 without one
	acked bool       // the server has recorded the exit
	// ended is closed when the exit is known, durable, and the log complete; without
	// an exit when the start has failed.
	ended chan struct{}
}

func (c *container) status() wire.Status {
	s := wire.Status{ID: c.id, Exit: c.exit, Starting: c.proc == nil && c.exit == nil}
	if c.proc != nil {
		s.PID = c.proc.pid
	}
	return s
}

// drainLimit is how long the end of a container is kept back while something
// still holds its output open: a process it left in the host's PID namespace.
const drainLimit = 500 * time.Millisecond

// start runs the OCI runtime, which is to start a container and end. A
// container that was started already is not started again.
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

// launch starts c's process and its attendants.
func (s *server) launch(c *container, r *wire.StartRequest) (err error) {
	if err := removePID(&r.Command); err != nil {
		return err
	}
	oom := watchOOM(r.OOMFile)
	hold := s.escrow.newHolding(c.id, record{Key: rand.Uint64(), Start: *r, OOM: oom.before})
	std := s.streams.newStdio(hold, s.log.With("container", c.id))
	defer func() {
		if err != nil {
			hold.drop()
			std.close()
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

// settle makes c a container that runs. After an error the process is killed.
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

// attend makes the process, nil for none, and the streams the container's.
func (s *server) attend(c *container, std *stdio, proc *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.proc, c.std, c.hold = proc, std, std.hold
}

// watchOver begins to read the output of a container and to wait for its end.
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

// invoke runs the command of a holding, one of the OCI runtime that starts a
// process, and returns the process and its terminal. Call it between
// children.begin and end, after removePID.
func (s *server) invoke(h *holding, files childFiles) (proc *process, tty *os.File, err error) {
	cmd := &h.rec.Start.Command
	var con *console
	if cmd.Console != "" {
		if con, err = newConsole(cmd); err != nil {
			return nil, nil, err
		}
		defer s.endConsole(h, con)
		if err := h.change(func(h *content) { h.set(roleConsole, con.fd) }); err != nil {
			return nil, nil, err
		}
	}
	if err := s.command(cmd, files, h.runs); err != nil {
		return nil, nil, err
	}
	return s.started(h, con)
}

func (s *server) endConsole(h *holding, con *console) {
	if err := h.change(func(h *content) { h.set(roleConsole, -1) }); err != nil {
		s.log.Error("giving up a console", "container", h.entry.ID, "err", err)
		return
	}
	con.close()
}

// started returns the process that the OCI runtime has started, and its terminal.
func (s *server) started(h *holding, con *console) (proc *process, tty *os.File, err error) {
	pid, err := readPID(pidFileOf(h))
	if err != nil {
		return nil, nil, err
	}
	if con != nil {
		if tty, err = s.terminalOf(h, con); err != nil {
			// Nobody could ever see or end its session.
			return nil, nil, errors.Join(err, unix.Kill(pid, unix.SIGKILL))
		}
	}
	if proc, err = s.children.adopt(pid); err == nil {
		// Once more: the OCI runtime may have forked before it had it.
		s.setOOMScore(&h.rec.Start.Command, pid)
		return proc, tty, nil
	}
	if tty == nil {
		return nil, nil, err
	}
	cerr := h.change(func(h *content) { h.set(roleTerminal, -1) })
	if cerr == nil {
		cerr = tty.Close()
	}
	return nil, nil, errors.Join(err, cerr)
}

// terminalOf takes the terminal from the console into the holding, at once: it is
// nowhere else between that the console's connection is accepted and that.
func (s *server) terminalOf(h *holding, con *console) (*os.File, error) {
	tty, err := con.terminal()
	if err != nil {
		return nil, err
	}
	fds, err := wire.Descriptors([]*os.File{tty})
	if err == nil {
		err = h.change(func(h *content) { h.set(roleTerminal, fds[0]) })
	}
	if err != nil {
		return nil, errors.Join(err, tty.Close())
	}
	return tty, nil
}

// command runs the OCI runtime to its end. begun is told its process.
func (s *server) command(cmd *wire.Command, files childFiles, begun func(*process) error) error {
	defer s.warmer.warm()()
	run, err := s.children.fork(cmd.Args, cmd.Dir, files[:])
	if err != nil {
		return err
	}
	defer s.children.reap(run)
	// Before it forks, on any but a very busy machine: it was just loaded.
	s.setOOMScore(cmd, run.pid)
	if err := begun(run); err != nil {
		_ = run.signal(int(unix.SIGKILL))
	}
	// A runtime that hangs, on a stuck file system perhaps, must not hold its
	// caller for ever.
	alarm := time.AfterFunc(runtimeLimit, func() { _ = run.signal(int(unix.SIGKILL)) })
	defer alarm.Stop()
	out, err := run.wait()
	if err != nil {
		return errors.Join(err, run.signal(int(unix.SIGKILL)))
	}
	if out.code != 0 {
		return &runtimeError{program: filepath.Base(cmd.Args[0]), code: out.code}
	}
	return nil
}

// setOOMScore gives a process the score of the command. The keeper has the lowest
// that it may set, so this one is never lower and never refused.
func (s *server) setOOMScore(cmd *wire.Command, pid int) {
	if cmd.OOMScoreAdj == nil {
		return
	}
	file := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	err := os.WriteFile(file, []byte(strconv.Itoa(*cmd.OOMScoreAdj)), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it has ended
		s.log.Warn("setting an oom score", "err", err)
	}
}

// runtimeLimit is generous: starting a container takes tens of milliseconds,
// and on a machine under heavy load some seconds.
const runtimeLimit = 2 * time.Minute

// runtimeError is an invocation of the OCI runtime that ended with a code.
type runtimeError struct {
	program string
	code    int32
	output  string
}

func (e *runtimeError) Error() string {
	if text := strings.TrimSpace(e.output); text != "" {
		return fmt.Sprintf("%s: %s", e.program, text)
	}
	return fmt.Sprintf("%s: exit code %d", e.program, e.code)
}

func pidFileOf(h *holding) string {
	return filepath.Join(h.rec.Start.Command.Dir, h.rec.Start.Command.PIDFile)
}

// removePID removes the pid file of an earlier attempt. It comes before anything is
// held: the next keeper trusts the file that it finds.
func removePID(c *wire.Command) error {
	err := os.Remove(filepath.Join(c.Dir, c.PIDFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the runtime's old pid file: %w", err)
	}
	return nil
}

func readPID(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("reading the runtime's pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0, fault.Internal.Errorf("reading the runtime's pid file: %.40q is no process id", text)
	}
	return pid, nil
}

// witness makes the end of the container's process known: first durably, then by
// reaping the process, then to those who wait.
func (s *server) witness(c *container, proc *process, oom oomWatch) {
	out, err := proc.outcome()
	if err != nil {
		// It has ended all the same, and somebody may be waiting for that.
		s.log.Error("waiting for a container", "container", c.id, "err", err)
		out = outcome{code: lostCode, at: time.Now(), lost: true}
	}
	exit := &wire.Exit{ID: c.id, Code: out.code, At: out.at, OOM: oom.killed(out.code), Lost: out.lost}
	entry, err := s.journal.Begin("exit", exit)
	if err != nil {
		// The anchor keeps it, as long as that lives.
		s.log.Error("recording an exit", "container", c.id, "code", exit.Code, "err", err)
	}
	err = c.hold.change(func(h *content) {
		h.entry.PID, h.rec.Exit, h.rec.Sole = 0, exit, entry == 0
		h.set(roleProcess, -1)
	})
	if err != nil {
		s.log.Error("keeping an exit", "container", c.id, "err", err)
	} else {
		s.children.reap(proc)
	}
	s.conclude(c, exit, entry)
}

// conclude publishes the end of a container, once its output has ended or is not
// worth waiting for.
func (s *server) conclude(c *container, exit *wire.Exit, entry journal.ID) {
	select {
	case <-c.std.drained:
		c.hold.release()
	case <-time.After(drainLimit):
	}
	c.std.closeStdin()
	if s.publish(c, exit, entry) {
		if err := s.ack(c); err != nil {
			s.log.Error("confirming an exit", "container", c.id, "err", err)
		}
	}
}

// publish makes the end known to those who wait, and reports whether it was
// acknowledged before: by a server that had it from an earlier keeper.
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

// remove ends the container if it runs and forgets it.
func (s *server) remove(id string) error {
	c := s.lookup(id)
	if c == nil {
		return nil
	}
	c.life.Lock() // waits for a start under way
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
		std.close()
		hold.drop()
	}
	s.forget(c)
	return s.ack(c)
}

// removeLimit bounds the wait for a killed process, which ends as soon as it
// leaves the kernel.
const removeLimit = 10 * time.Second

// ack confirms that the server has recorded the container's exit.
func (s *server) ack(c *container) error {
	s.mu.Lock()
	entry := c.entry
	hold := c.hold
	c.entry, c.acked = 0, true
	s.mu.Unlock()
	if entry == 0 && hold != nil {
		hold.forgetExit()
	}
	if entry == 0 {
		return nil
	}
	return s.journal.Done(entry)
}

package daemon

import (
	"errors"
	"fmt"
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
	exit  *wire.Exit
	seq   uint64     // position among the exits of this keeper's life
	entry journal.ID // the exit in the journal; 0 without one
	acked bool       // the server has recorded the exit
	// ended is closed when the exit is known, durable, and the log complete.
	ended chan struct{}
}

func (c *container) status() wire.Status {
	s := wire.Status{ID: c.id, Exit: c.exit}
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
	c := s.claim(id)
	defer c.life.Unlock()
	if st := s.statusOf(c); st.PID != 0 || st.Exit != nil {
		return st, nil
	}
	err := s.launch(c, r)
	if err != nil {
		s.forget(c)
		return wire.Status{}, err
	}
	return s.statusOf(c), nil
}

// launch starts c's process and its attendants.
func (s *server) launch(c *container, r *wire.StartRequest) error {
	std, child, err := newStdio(r, &s.buffers, s.log.With("container", c.id))
	if err != nil {
		return fmt.Errorf("opening streams: %w", err)
	}
	oom := watchOOM(r.OOMFile)
	s.children.begin()
	defer s.children.end()
	proc, tty, err := s.invoke(&r.Command, child)
	wire.CloseAll(child[:])
	if err != nil {
		var failed *runtimeError
		if errors.As(err, &failed) {
			failed.output = std.complaint()
		}
		std.close()
		return err
	}
	if tty != nil {
		std.useTerminal(tty, r.Stdin)
	}
	s.mu.Lock()
	c.proc, c.std = proc, std
	s.mu.Unlock()
	std.pump()
	go s.witness(c, proc, oom)
	return nil
}

// invoke runs a command of the OCI runtime that starts a process, and returns
// the process and its terminal. Call it between children.begin and end.
func (s *server) invoke(cmd *wire.Command, files childFiles) (proc *process, tty *os.File, err error) {
	var con *console
	if cmd.Console != "" {
		if con, err = newConsole(cmd); err != nil {
			return nil, nil, err
		}
		defer con.close()
	}
	if err := s.command(cmd, files); err != nil {
		return nil, nil, err
	}
	pid, err := readPID(filepath.Join(cmd.Dir, cmd.PIDFile))
	if err != nil {
		return nil, nil, err
	}
	if con != nil {
		if tty, err = con.terminal(); err != nil {
			// Nobody could ever see or end its session.
			return nil, nil, errors.Join(err, unix.Kill(pid, unix.SIGKILL))
		}
	}
	proc, err = s.children.adopt(pid)
	if err != nil && tty != nil {
		err = errors.Join(err, tty.Close())
	}
	return proc, tty, err
}

// command runs the OCI runtime to its end.
func (s *server) command(cmd *wire.Command, files childFiles) error {
	defer s.warmer.warm()()
	run, err := s.children.fork(cmd.Args, cmd.Dir, files[:])
	if err != nil {
		return err
	}
	defer s.children.reap(run)
	if cmd.OOMScoreAdj != nil {
		// Long before it forks: it was just loaded. The keeper has the lowest score
		// that it may set, so this is never lower and never refused.
		file := fmt.Sprintf("/proc/%d/oom_score_adj", run.pid)
		if err := os.WriteFile(file, []byte(strconv.Itoa(*cmd.OOMScoreAdj)), 0); err != nil {
			s.log.Warn("setting the oom score of an oci runtime", "err", err)
		}
	}
	// A runtime that hangs, on a stuck file system perhaps, must not hold its
	// caller for ever.
	alarm := time.AfterFunc(runtimeLimit, func() { _ = run.signal(int(unix.SIGKILL)) })
	defer alarm.Stop()
	out, err := run.wait()
	if err != nil {
		return err
	}
	if out.code != 0 {
		return &runtimeError{program: filepath.Base(cmd.Args[0]), code: out.code}
	}
	return nil
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

// witness waits for the container's end and makes it known: first durably,
// then by reaping the process, then to those who wait.
func (s *server) witness(c *container, proc *process, oom oomWatch) {
	out, err := proc.wait()
	if err != nil {
		s.log.Error("waiting for a container", "container", c.id, "err", err)
		return
	}
	exit := &wire.Exit{ID: c.id, Code: out.code, At: out.at, OOM: oom.killed(out.code)}
	entry, err := s.journal.Begin("exit", exit)
	if err != nil {
		// Kept in memory, which is all that is left to do; the process stays a
		// zombie no longer than the keeper lives either way.
		s.log.Error("recording an exit", "container", c.id, "code", exit.Code, "err", err)
	}
	s.children.reap(proc)
	select {
	case <-c.std.drained:
	case <-time.After(drainLimit):
	}
	c.std.closeStdin()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.proc, c.exit, c.entry = nil, exit, entry
	s.exits++
	c.seq = s.exits
	close(c.ended)
	s.notify()
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
	proc, std := c.proc, c.std
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
	c.entry, c.acked = 0, true
	s.mu.Unlock()
	if entry == 0 {
		return nil
	}
	return s.journal.Done(entry)
}

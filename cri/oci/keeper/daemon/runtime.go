package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// invoke runs the command of a holding, an OCI runtime command that starts a process, and
// returns the process and its terminal. Call it between children.begin and end, after
// removePID.
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
	return s.started(h, con, "")
}

func (s *server) endConsole(h *holding, con *console) {
	if err := h.change(func(h *content) { h.set(roleConsole, -1) }); err != nil {
		s.log.Error("giving up a console", "container", h.entry.ID, "err", err)
		return
	}
	con.close()
}

// started returns the process that the OCI runtime started, and its terminal. For the
// cgroup, see children.adopt.
func (s *server) started(h *holding, con *console, cgroup string) (proc *process, tty *os.File, err error) {
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
	if proc, err = s.children.adopt(pid, cgroup); err == nil {
		// Once more: the OCI runtime may have forked before its own score was set.
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

// terminalOf receives the terminal from the console and puts it into the holding at once:
// between accepting the console's connection and that, nobody else holds it.
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

// command runs the OCI runtime to completion. begun is called with its process.
func (s *server) command(cmd *wire.Command, files childFiles, begun func(*process) error) error {
	run, err := s.children.fork(cmd.Args, cmd.Dir, files[:], cmd.View)
	if err != nil {
		return err
	}
	defer s.children.reap(run)
	// It has just been executed and will not have forked yet, except on a very busy
	// machine.
	s.setOOMScore(cmd, run.pid)
	if err := begun(run); err != nil {
		_ = run.signal(int(unix.SIGKILL))
	}
	// A runtime that hangs, for example on a stuck file system, must not block its caller
	// forever.
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

// setOOMScore gives a process the command's score. The keeper has the lowest score that
// it may set, so this one is never lower and never refused.
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

// runtimeLimit is generous: starting a container takes tens of milliseconds, and some
// seconds on a machine under heavy load.
const runtimeLimit = 2 * time.Minute

// runtimeError says that the OCI runtime exited with a non-zero code.
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

// removePID removes the pid file of an earlier attempt. It is called before anything is
// held: the next keeper trusts any pid file that it finds.
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

package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// resume completes a start that an earlier keeper has begun. c.life is held until it is
// over, so that a repeated call for the same start finds its outcome.
func (s *server) resume(c *container, oom oomWatch) {
	defer c.life.Unlock()
	s.children.begin()
	defer s.children.end()
	var proc *process
	var tty *os.File
	err := c.std.openLog()
	if err == nil {
		proc, tty, err = s.awaitStart(c.hold)
	}
	if tty == nil && c.std.unused() {
		tty = c.std.terminal
	}
	if err == nil {
		err = s.settle(c, c.std, proc, tty, oom)
	}
	if err == nil {
		return
	}
	s.log.Warn("a start that an earlier keeper has begun is given up", "container", c.id, "err", err)
	if _, perr := readPID(pidFileOf(c.hold)); perr == nil {
		// It ran, and must not run again.
		s.lose(c)
		return
	}
	s.forget(c)
	c.std.discard()
	c.hold.drop()
}

// lose records an end that nobody saw.
func (s *server) lose(c *container) {
	exit := &wire.Exit{ID: c.id, Code: lostCode, At: time.Now(), Lost: true}
	entry, err := s.journal.Note("exit", exit)
	err = errors.Join(err, s.noteExit(c.hold, exit, err != nil))
	if err != nil {
		s.log.Error("recording an exit", "container", c.id, "err", err)
	}
	err = c.std.pump()
	if err != nil {
		s.log.Error("reading the output of a container", "container", c.id, "err", err)
	}
	s.conclude(c, exit, entry)
}

// awaitStart waits for the OCI runtime of a start in progress, and returns what it
// started. If the earlier keeper had not got as far as running it, it is run now; but not
// for an exec, for which nobody waits any more.
func (s *server) awaitStart(hold *holding) (proc *process, tty *os.File, err error) {
	run, pidfd, err := runtimeOf(hold)
	if err != nil {
		return nil, nil, err
	}
	if _, err := readPID(pidFileOf(hold)); run == 0 && err != nil {
		if hold.rec.Exec {
			return nil, nil, err
		}
		return s.beginAgain(hold)
	}
	var con *console
	if hold.get(roleConsole) >= 0 {
		if con, err = restoreConsole(hold); err != nil {
			return nil, nil, err
		}
		defer s.endConsole(hold, con)
	}
	adrift := true // it was reaped, no matter by whom
	if pidfd >= 0 {
		if adrift, err = s.awaitRuntime(run, pidfd); err != nil {
			return nil, nil, err
		}
	}
	if hold.get(roleTerminal) >= 0 {
		con = nil // the earlier keeper has received it
	}
	cgroup := ""
	if adrift {
		cgroup = cgroupOf(hold)
	}
	return s.started(hold, con, cgroup)
}

// beginAgain runs the OCI runtime for a start that had not got that far, with the other
// ends of the pipes that are held.
func (s *server) beginAgain(hold *holding) (proc *process, tty *os.File, err error) {
	if hold.get(roleConsole) >= 0 {
		if err := hold.change(func(h *content) { h.retire(roleConsole) }); err != nil {
			return nil, nil, err
		}
	}
	if err := removePID(&hold.rec.Start.Command); err != nil { // it exists but names no process
		return nil, nil, err
	}
	var files childFiles
	defer func() { wire.CloseAll(files[:]) }()
	for i, end := range []struct {
		role role
		mode int
	}{{roleStdin, os.O_RDONLY}, {roleStdout, os.O_WRONLY}, {roleStderr, os.O_WRONLY}} {
		name := os.DevNull
		if fd := hold.get(end.role); fd >= 0 {
			name = fmt.Sprintf("/proc/self/fd/%d", fd)
		}
		if files[i], err = os.OpenFile(name, end.mode, 0); err != nil {
			return nil, nil, err
		}
	}
	return s.invoke(hold, files)
}

// runtimeOf returns the OCI runtime process of a start in progress, with a descriptor
// that belongs to the holding; pid is 0 if none was started, and pidfd -1 if it was
// reaped.
func runtimeOf(hold *holding) (pid, pidfd int, err error) {
	if fd := hold.get(roleRuntime); fd >= 0 {
		return hold.rec.Run, fd, nil
	}
	if pid = hold.rec.Run; pid == 0 { // otherwise an earlier keeper held no descriptor of it
		pid = findRuntime(hold.rec.Start.Command.Args)
	}
	if pid == 0 {
		return 0, -1, nil
	}
	pidfd, err = unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return pid, -1, nil
	}
	if err != nil {
		return 0, -1, err
	}
	err = hold.change(func(h *content) {
		h.rec.Run = pid
		h.set(roleRuntime, pidfd)
	})
	if err != nil {
		return 0, -1, errors.Join(err, unix.Close(pidfd))
	}
	return pid, pidfd, nil
}

// awaitRuntime waits for the end of an OCI runtime that an earlier keeper started. adrift
// says that it is not a child of the anchor: that keeper reaped it and then died, or the
// anchor that was its parent died. It may still be at work, and then what it starts is
// not a child of the keeper or the anchor either.
func (s *server) awaitRuntime(pid, pidfd int) (adrift bool, err error) {
	run := &process{pid: pid, kids: s.children, pidfd: pidfd}
	for deadline := time.Now().Add(runtimeLimit); ; time.Sleep(time.Millisecond) {
		ended, code, err := s.escrow.peek(pid, pidfd)
		if adrift = errors.Is(err, unix.ECHILD); adrift {
			ended, code = run.askAdrift()
		}
		switch {
		case err != nil && !adrift:
			return adrift, err
		case ended && code != 0:
			return adrift, fault.Aborted.Errorf("the OCI runtime ended with %d", code)
		case ended:
			return adrift, nil
		case time.Now().After(deadline):
			return adrift, errors.Join(fault.Aborted.Errorf("the OCI runtime does not end"), unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0))
		}
	}
}

// askAdrift is poll for an OCI runtime whose parent is neither the keeper nor the anchor.
// If nobody knows how it ended, its pid file tells whether it succeeded.
func (p *process) askAdrift() (ended bool, code int32) {
	if !readable(p.pidfd) {
		return false, 0
	}
	if out := p.askKernel(); !out.lost {
		code = out.code
	}
	return true, code
}

// cgroupOf returns the directory of the container's cgroup; "" if unknown.
func cgroupOf(h *holding) string {
	if file := h.rec.Start.OOMFile; file != "" {
		return filepath.Dir(file)
	}
	return ""
}

// findRuntime finds a program that the earlier keeper started without having told the
// anchor, because it was killed in between. It returns 0 if there is none.
func findRuntime(args []string) int {
	want := strings.Join(args, "\x00") + "\x00"
	own, _ := os.ReadFile("/proc/self/cmdline")
	for deadline := time.Now().Add(findLimit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		forked := false // a sibling still runs the keeper program
		for pid, line := range siblings() {
			if line == want {
				return pid
			}
			forked = forked || line == string(own)
		}
		if !forked {
			return 0
		}
	}
	return 0
}

// findLimit is how long a forked process may take to execute the program.
const findLimit = time.Second

// siblings returns the anchor's children except this process, with their command lines.
func siblings() map[int]string {
	all := map[int]string{}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getppid()))
	for _, file := range lists {
		text, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(text)) {
			if pid, _ := strconv.Atoi(field); pid != os.Getpid() {
				line, _ := os.ReadFile("/proc/" + field + "/cmdline")
				all[pid] = string(line)
			}
		}
	}
	return all
}

// restoreConsole takes over the socket of a console. net listens on a duplicate of the
// descriptor, which is held from then on.
func restoreConsole(hold *holding) (*console, error) {
	fd, err := unix.FcntlInt(uintptr(hold.get(roleConsole)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "console")
	l, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fault.Internal.Errorf("the console is no unix socket"), l.Close())
	}
	con, err := consoleOf(u, &hold.rec.Start.Command)
	if err != nil {
		return nil, err
	}
	err = hold.change(func(h *content) {
		h.retire(roleConsole)
		h.set(roleConsole, con.fd)
	})
	if err != nil {
		con.close()
		return nil, err
	}
	return con, nil
}

// endExec kills a program executed in a container for a client of an earlier keeper: that
// client gets no more answers.
func (s *server) endExec(hold *holding) {
	if fd := hold.get(roleProcess); fd >= 0 {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it has ended
		hold.drop()
		_ = unix.Close(fd)
		return
	}
	s.children.begin()
	defer s.children.end()
	proc, tty, err := s.awaitStart(hold)
	hold.drop()
	if err != nil {
		return
	}
	wire.CloseAll([]*os.File{tty})
	_ = s.children.abandon(proc) // it has ended
}

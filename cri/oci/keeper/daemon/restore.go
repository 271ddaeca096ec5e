package daemon

import (
	"encoding/json"
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
	"github.com/nodekit-project/nodekit/internal/journal"
)

// execID begins the ids of the execs' entries.
const execID = " exec"

// restore goes on where an earlier keeper, of whatever version, was interrupted:
// with the exits that nobody has acknowledged, the containers and the starts under
// way. stop ends the watch over children.
func (s *server) restore(exitInfo bool) (stop func(), err error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	if s.children, stop, err = newChildren(poll, s.escrow, exitInfo); err != nil {
		return nil, err
	}
	if err := s.restoreExits(); err != nil {
		return nil, err
	}
	entries, err := s.escrow.recall()
	if err != nil {
		return nil, fmt.Errorf("asking the anchor: %w", err)
	}
	d, left, err := restoreDesks(s.escrow, entries)
	if err != nil {
		return nil, err
	}
	s.streams = &streams{poller: poll, desks: d}
	for _, x := range entries {
		if !strings.HasPrefix(x.ID, " ") || strings.HasPrefix(x.ID, execID) {
			s.restoreEntry(x, left)
		}
	}
	for _, desks := range left { // of containers that were removed
		for _, k := range desks {
			k.clear()
			d.giveBack(k)
		}
	}
	return stop, poll.add(s.escrow.line.FD(), func() { go s.escrow.check() })
}

// restoreExits brings back the exits that nobody has acknowledged.
func (s *server) restoreExits() error {
	for _, e := range s.journal.Pending() {
		var exit wire.Exit
		if err := json.Unmarshal(e.Data, &exit); err != nil {
			return fmt.Errorf("reading the exit journal: %w", err)
		}
		s.know(&exit, e.ID)
	}
	return nil
}

// restoreContainer brings back a container: one that runs, one whose start is
// under way, or one that has ended and whose output may not have.
func (s *server) restoreContainer(hold *holding, std *stdio) error {
	id := hold.entry.ID
	known := s.containers[id]
	c := newContainer(id)
	c.std, c.hold = std, hold
	s.containers[id] = c
	oom := oomOf(hold.rec.Start.OOMFile, hold.rec.OOM)
	switch {
	case known != nil, hold.rec.Exit != nil:
		exit, entry := hold.rec.Exit, journal.ID(0)
		if known != nil {
			exit, entry = known.exit, known.entry
		} else {
			c.acked = !hold.rec.Sole
		}
		if err := s.noteExit(hold, exit, false); err != nil {
			return err
		}
		c.life.Lock()
		go func() {
			defer c.life.Unlock()
			s.conclude(c, exit, entry)
		}()
		return std.pump()
	case hold.entry.Starting:
		c.life.Lock()
		go s.resume(c, oom)
		return nil
	}
	proc := &process{pid: hold.entry.PID, kids: s.children, pidfd: hold.get(roleProcess)}
	if proc.pidfd < 0 {
		return fault.Internal.Errorf("it has no process")
	}
	c.proc = proc
	return s.watchOver(c, std, proc, oom)
}

// noteExit says in the holding what the journal knows already, or could not be told:
// then the exit is nowhere else.
func (s *server) noteExit(hold *holding, exit *wire.Exit, sole bool) error {
	if hold.rec.Exit != nil {
		return nil
	}
	return hold.change(func(h *content) {
		h.entry.PID, h.entry.Starting, h.rec.Exit, h.rec.Sole = 0, false, exit, sole
		h.retire(roleProcess)
		h.retire(roleRuntime)
	})
}

// restoreStdio takes up the streams in a holding. After an error they are still the
// holding's alone.
func (s *server) restoreStdio(hold *holding) (*stdio, error) {
	std := s.streams.newStdio(hold, s.log.With("container", hold.entry.ID))
	for r, frame := range map[role]byte{roleStdout: wire.FrameStdout, roleStderr: wire.FrameStderr} {
		if fd := hold.get(r); fd >= 0 {
			std.outputs = append(std.outputs, &output{fd: fd, frame: frame})
		}
	}
	if std.once && hold.rec.Attached {
		if err := hold.change(func(h *content) { h.retire(roleStdin) }); err != nil {
			return nil, err
		}
	}
	in, tty := hold.get(roleStdin), hold.get(roleTerminal)
	if in >= 0 {
		if err := unix.SetNonblock(in, true); err != nil {
			return nil, err
		}
	}
	if tty >= 0 {
		if err := std.restoreTerminal(tty); err != nil {
			return nil, err
		}
	}
	if in >= 0 {
		std.stdin = os.NewFile(uintptr(in), "stdin")
	}
	if fd := hold.get(roleLog); fd >= 0 {
		std.log = newLogFile(hold.rec.Start.Log, hold.rec.Key, fd)
	}
	return std, nil
}

// restoreTerminal takes up a terminal, with the write end of the pipe behind it,
// opened again. One without that pipe was received and no more.
func (s *stdio) restoreTerminal(fd int) error {
	if len(s.outputs) == 1 {
		in, err := openWriteEnd(s.outputs[0].fd)
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(in, false); err != nil {
			return errors.Join(err, unix.Close(in))
		}
		s.outputs[0].tap = &tap{tty: fd, into: os.NewFile(uintptr(in), "pipe")}
	}
	s.terminal, s.tty = os.NewFile(uintptr(fd), "terminal"), fd
	if len(s.outputs) == 1 && s.hold.rec.Start.Stdin && !(s.once && s.hold.rec.Attached) {
		s.stdin = s.terminal
	}
	return nil
}

// unused reports whether there is a terminal from which nothing is read yet.
func (s *stdio) unused() bool { return s.terminal != nil && s.outputs[0].tap == nil }

// resume ends a start that an earlier keeper has begun. c.life is held until it
// is over, so that a call that asks for the same start finds what became of it.
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
	c.std.close()
	c.hold.drop()
}

// lose records an end that nobody has seen.
func (s *server) lose(c *container) {
	exit := &wire.Exit{ID: c.id, Code: lostCode, At: time.Now(), Lost: true}
	entry, err := s.journal.Begin("exit", exit)
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

// awaitStart waits for the OCI runtime of a start under way, and returns what it
// has started. Where the keeper before had not come as far as to run it, it is run
// now; but no exec is, for which nobody waits any more.
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
	if pidfd >= 0 {
		if err := s.awaitRuntime(run, pidfd); err != nil {
			return nil, nil, err
		}
	}
	if hold.get(roleTerminal) >= 0 {
		con = nil // the keeper before has received it
	}
	return s.started(hold, con)
}

// beginAgain runs the OCI runtime for a start that has not come so far, with the
// other ends of the pipes that are held.
func (s *server) beginAgain(hold *holding) (proc *process, tty *os.File, err error) {
	if hold.get(roleConsole) >= 0 {
		if err := hold.change(func(h *content) { h.retire(roleConsole) }); err != nil {
			return nil, nil, err
		}
	}
	if err := removePID(&hold.rec.Start.Command); err != nil { // it is there and names nobody
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

// runtimeOf returns the process of the OCI runtime of a start under way, whose
// descriptor is the holding's; 0 when none was started, and no descriptor when it
// was reaped.
func runtimeOf(hold *holding) (pid, pidfd int, err error) {
	if fd := hold.get(roleRuntime); fd >= 0 {
		return hold.rec.Run, fd, nil
	}
	if pid = hold.rec.Run; pid == 0 { // else a keeper before held no descriptor of it
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

// awaitRuntime waits for the end of an OCI runtime that is a child of the anchor.
func (s *server) awaitRuntime(pid, pidfd int) error {
	for deadline := time.Now().Add(runtimeLimit); ; time.Sleep(time.Millisecond) {
		ended, code, err := s.escrow.peek(pid, pidfd)
		switch {
		case errors.Is(err, unix.ECHILD): // the keeper before reaped it, and died then
			return nil
		case err != nil:
			return err
		case ended && code != 0:
			return fault.Aborted.Errorf("the OCI runtime ended with %d", code)
		case ended:
			return nil
		case time.Now().After(deadline):
			return errors.Join(fault.Aborted.Errorf("the OCI runtime does not end"), unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0))
		}
	}
}

// findRuntime finds a program that the keeper before has started and not told the
// anchor of: it was killed in between. 0 when there is none.
func findRuntime(args []string) int {
	want := strings.Join(args, "\x00") + "\x00"
	own, _ := os.ReadFile("/proc/self/cmdline")
	for deadline := time.Now().Add(findLimit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		forked := false // and not the program yet
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

// findLimit is how long a process that was forked may take to become the program.
const findLimit = time.Second

// siblings are the anchor's children but this process, with their command lines.
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

// restoreConsole takes up the socket of a console. net listens on a descriptor of
// its own: that is held from then on.
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

// endExec kills a program that was executed in a container for a client of an
// earlier keeper: that client knows no more.
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

package daemon

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/child"
)

// A process that somebody else has reaped is nobody's child, although its id
// belongs to a child by now; and that one is left alone.
func TestIdIsUsedAgain(t *testing.T) {
	s := newTestServer(t)
	s.children.begin() // nothing is swept
	defer s.children.end()
	first, second := exec.Command("/bin/sh", "-c", "exit 3"), exec.Command("/bin/sh", "-c", "exit 4")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	gone, err := s.children.adopt(first.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Fatal("it ended with 0")
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	next, err := s.children.adopt(second.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	// As if the kernel had given the id away again.
	gone.pid = next.pid
	for ended := false; !ended; {
		if ended, _, err = child.Peek(next.pid); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := gone.outcome(); err != nil || out.code == 4 {
		t.Errorf("the end of the first is %+v, %v: that is the second's", out, err)
	}
	s.children.reap(gone)
	if s.children.known[next.pid] != next {
		t.Error("the second is taken for a stranger")
	}
	if out, err := next.outcome(); err != nil || out.code != 4 || out.lost {
		t.Errorf("the second ended as %+v, %v, want 4", out, err)
	}
	s.children.reap(next)
	if _, _, err := child.Peek(next.pid); !errors.Is(err, unix.ECHILD) {
		t.Errorf("the second was not reaped: %v", err)
	}
}

// What cannot be waited for has not ended well: the program that was executed is
// killed, and the caller is told the error.
func TestExecThatCannotBeAwaited(t *testing.T) {
	s := newTestServer(t)
	cmd, _ := sleeper(t)
	proc, err := s.children.adopt(cmd.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.onEnd(func() {}); err != nil { // so that it cannot be watched again
		t.Fatal(err)
	}
	out, err := s.endOfExec(proc, s.escrow.newHolding(execID, record{Exec: true}))
	if err == nil {
		t.Errorf("the end is %+v and no error", out)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
}

// A container that has ended and cannot be asked how has a lost exit.
func TestExitThatCannotBeAsked(t *testing.T) {
	s := newTestServer(t)
	c := newContainer("c")
	c.hold = s.escrow.newHolding("c", record{})
	c.std = s.streams.newStdio(c.hold, s.log)
	close(c.std.drained)
	s.containers["c"] = c
	s.witness(c, &process{pid: 1, kids: s.children, pidfd: -1}, oomWatch{})
	select {
	case <-c.ended:
		if !c.exit.Lost || c.exit.Code != lostCode {
			t.Errorf("it ended as %+v", c.exit)
		}
	default:
		t.Error("nobody is told that it ended")
	}
}

// An exit that the anchor cannot be told of is known, and its process is reaped and its
// holding given up when it can.
func TestExitThatCannotBeHandedIn(t *testing.T) {
	s := newTestServer(t)
	s.children.begin() // nothing is swept
	defer s.children.end()
	cmd := exec.Command("/bin/sh", "-c", "exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	proc, err := s.children.adopt(cmd.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	c := newContainer("c")
	c.hold = s.escrow.newHolding("c", record{})
	if err := c.hold.change(func(h *content) { h.began(proc) }); err != nil {
		t.Fatal(err)
	}
	c.std = s.streams.newStdio(c.hold, s.log)
	close(c.std.drained)
	s.containers["c"] = c
	lengthen := func(n int) {
		c.hold.mu.Lock()
		defer c.hold.mu.Unlock()
		c.hold.rec.Start.Log = strings.Repeat("x", n)
	}
	lengthen(100 << 10)
	for ended := false; !ended; {
		if ended, _, err = child.Peek(proc.pid); err != nil {
			t.Fatal(err)
		}
	}
	s.witness(c, proc, oomWatch{})
	<-c.ended
	if c.exit.Code != 3 {
		t.Errorf("it ended as %+v, want 3", c.exit)
	}
	if err := s.ack(c); err != nil {
		t.Error(err)
	}
	if _, _, err := child.Peek(proc.pid); err != nil {
		t.Errorf("before the anchor knows: %v, want a process that can be reaped", err)
	}
	lengthen(0)
	held := func() bool {
		s.escrow.mu.Lock()
		defer s.escrow.mu.Unlock()
		_, held := s.escrow.entries["c"]
		return held
	}
	for late := time.Now().Add(10 * time.Second); held(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the holding is not given up")
		}
	}
	if _, _, err := child.Peek(proc.pid); !errors.Is(err, unix.ECHILD) {
		t.Errorf("the process was not reaped: %v", err)
	}
}

// A start that fails when its process runs already leaves none.
func TestStartFailsAtTheLastStep(t *testing.T) {
	s := newTestServer(t)
	cmd, _ := sleeper(t)
	proc, err := s.children.adopt(cmd.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.onEnd(func() {}); err != nil { // so that it cannot be watched again
		t.Fatal(err)
	}
	c, err := s.claim("c")
	if err != nil {
		t.Fatal(err)
	}
	std := s.streams.newStdio(s.escrow.newHolding("c", record{}), s.log)
	if err := s.settle(c, std, proc, nil, oomWatch{}); err == nil {
		t.Error("no error")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
	std.close()
	<-std.drained
	if c.proc != nil || std.hold.get(roleProcess) >= 0 {
		t.Errorf("the process is still the container's: %+v", c.proc)
	}
}

// A program that cannot be watched is not started. What other tests have left may
// give descriptors back meanwhile, and then it is tried again.
func TestForkWithoutDescriptors(t *testing.T) {
	s := newTestServer(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s.children.begin()
	defer s.children.end()
	var ran string
	for range 10 {
		ran = filepath.Join(t.TempDir(), "ran")
		var proc *process
		if proc, err = forkScarce(t, s, null, []string{"/bin/touch", ran}); err != nil {
			break
		}
		if err := s.children.abandon(proc); err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v, want %v", err, unix.EMFILE)
	}
	time.Sleep(50 * time.Millisecond)
	if _, err := os.Stat(ran); err == nil {
		t.Error("the program ran")
	}
}

// forkScarce forks with two descriptors to spare, which ForkExec needs itself.
func forkScarce(t *testing.T, s *server, null *os.File, args []string) (*process, error) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	next, err := unix.Dup(int(null.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(next + 2), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	proc, err := s.children.fork(args, "/", []*os.File{null, null, null}, nil)
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	return proc, err
}

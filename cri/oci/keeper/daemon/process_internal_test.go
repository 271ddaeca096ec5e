package daemon

import (
	"os/exec"
	"testing"

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
	gone, err := s.children.adopt(first.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Fatal("it ended with 0")
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	next, err := s.children.adopt(second.Process.Pid)
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
	if _, _, err := child.Peek(next.pid); err != unix.ECHILD {
		t.Errorf("the second was not reaped: %v", err)
	}
}

// What cannot be waited for has not ended well: the program that was executed is
// killed, and the caller is told the error.
func TestExecThatCannotBeAwaited(t *testing.T) {
	s := newTestServer(t)
	cmd, _ := sleeper(t)
	proc, err := s.children.adopt(cmd.Process.Pid)
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

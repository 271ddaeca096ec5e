package anchor

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// newLine returns an anchor that answers, and the keeper's end of its line.
func newLine(t *testing.T) (*anchor, *Line) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := &anchor{programs: programs{proven: -1}, entries: map[string]Entry{}, cut: map[string]bool{}}
	over := make(chan struct{})
	go func() { a.converse(pair[0]); close(over) }()
	t.Cleanup(func() { unix.Close(pair[1]); <-over })
	return a, NewLine(pair[1])
}

// room lets this process open so many descriptors more, until the function that it
// returns is called.
func room(t *testing.T, count int) (enough func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	next := nulls(t, 1)[0]
	unix.Close(next)
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
	set(unix.Rlimit{Cur: uint64(next + count), Max: old.Max})
	return func() { set(old) }
}

func nulls(t *testing.T, count int) (fds []int) {
	t.Helper()
	for range count {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

// A put for which the anchor has too few descriptors leaves what was held before,
// and the keeper can tell.
func TestPutIsCut(t *testing.T) {
	a, l := newLine(t)
	if _, err := l.List(); err != nil { // tells the version
		t.Fatal(err)
	}
	fds := nulls(t, 4)
	defer closeAll(fds)
	if err := errors.Join(l.Put(Entry{ID: "c", PID: 7, Files: fds[:2]}), l.Kept("c")); err != nil {
		t.Fatal(err)
	}
	enough := room(t, 3)
	err := errors.Join(l.Put(Entry{ID: "c", Files: fds}), l.Put(Entry{ID: "d", Files: fds}))
	keptC, keptD, keptE := l.Kept("c"), l.Kept("d"), l.Kept("e")
	enough()
	if err != nil || !errors.Is(keptC, fault.Exhausted) || !errors.Is(keptD, fault.Exhausted) || keptE != nil {
		t.Errorf("%v; kept are c: %v, d: %v, and nothing: %v", err, keptC, keptD, keptE)
	}
	list, err := l.List()
	if err != nil || len(list) != 1 || list[0].PID != 7 || len(list[0].Files) != 2 {
		t.Fatalf("the anchor has %+v, %v; want what it had", list, err)
	}
	closeAll(list[0].Files)
	if err := errors.Join(l.Put(Entry{ID: "c", Files: fds}), l.Kept("c")); err != nil {
		t.Error(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.entries["c"].PID != 0 || len(a.entries["c"].Files) != 4 {
		t.Errorf("the anchor has %+v", a.entries["c"])
	}
}

// An entry for which a keeper has too few descriptors comes without any, and the
// others whole.
func TestListIsCut(t *testing.T) {
	a, l := newLine(t)
	fds := nulls(t, 4)
	defer closeAll(fds)
	a.mu.Lock()
	a.entries["large"], a.entries["small"] = Entry{ID: "large", Files: fds}, Entry{ID: "small", Files: fds[:1]}
	a.mu.Unlock()
	enough := room(t, 3)
	list, err := l.List()
	enough()
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, e := range list {
		if want := map[string]int{"large": 0, "small": 1}[e.ID]; len(e.Files) != want {
			t.Errorf("%q came with %d descriptors, want %d", e.ID, len(e.Files), want)
		}
		closeAll(e.Files)
	}
}

// An anchor of the first version is not asked what it would not answer.
func TestFirstVersionIsNotAsked(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(pair[:])
	l := NewLine(pair[1])
	if err := send(pair[0], &message{Op: opList}, nil); err != nil { // as the end of a list
		t.Fatal(err)
	}
	list, err := l.List()
	if err = errors.Join(err, l.Kept("c")); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// A child is asked for by its pidfd: what has its id by now is another one. Where
// there is no descriptor left for that, the id has to do.
func TestPeekAsksTheProcess(t *testing.T) {
	_, l := newLine(t)
	if _, err := l.List(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	peek := func(pid int) (code int32) {
		t.Helper()
		for ended := false; !ended; {
			if ended, code, err = l.Peek(pid, pidfd); err != nil {
				t.Fatal(err)
			}
		}
		return code
	}
	if code := peek(1); code != 3 {
		t.Errorf("it ended with %d, want 3", code)
	}
	enough := room(t, 0)
	code := peek(pid)
	enough()
	if code != 3 {
		t.Errorf("it ended with %d, want 3", code)
	}
	_ = cmd.Wait()
	if _, _, err := l.Peek(os.Getpid(), pidfd); !errors.Is(err, unix.ECHILD) {
		t.Errorf("what was reaped is %v, want %v", err, unix.ECHILD)
	}
}

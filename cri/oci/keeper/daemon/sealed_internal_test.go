package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// copyOf makes a program of another one's file.
func copyOf(t *testing.T, program, to string) {
	t.Helper()
	content, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func exitCode(t *testing.T, program string) int {
	t.Helper()
	cmd := exec.Command(program)
	_ = cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%q does not run", program)
	}
	return cmd.ProcessState.ExitCode()
}

// TestSealedCopy: a program runs from a copy that is as OCI runtimes want it, and
// from another one when it was replaced.
func TestSealedCopy(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	copyOf(t, "/bin/true", program)
	var c copies
	first := c.path(program)
	if first == program || c.path(program) != first {
		t.Fatalf("it runs from %q, and then from %q", first, c.path(program))
	}
	if code := exitCode(t, first); code != 0 {
		t.Errorf("the copy ends with %d", code)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if got, err := unix.FcntlInt(uintptr(c.held[program].fd), unix.F_GET_SEALS, 0); err != nil || got != seals {
		t.Errorf("its seals are %#x, %v", got, err)
	}
	if err := os.WriteFile(first, []byte("changed"), 0o755); err == nil {
		t.Error("the copy was written to")
	}

	next := program + ".next"
	copyOf(t, "/bin/false", next)
	if err := os.Rename(next, program); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.path(program)); code != 1 {
		t.Errorf("what replaced the program ends with %d", code)
	}
	if len(c.held) != 1 {
		t.Errorf("%d copies are held", len(c.held))
	}
}

// TestNoCopy: what a copy would not do for runs as it is.
func TestNoCopy(t *testing.T) {
	dir := t.TempDir()
	script, large, closed := filepath.Join(dir, "script"), filepath.Join(dir, "large"), filepath.Join(dir, "closed")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyOf(t, "/bin/true", large)
	if err := os.Truncate(large, maxSealed+1); err != nil {
		t.Fatal(err)
	}
	copyOf(t, "/bin/true", closed)
	if err := os.Chmod(closed, 0o644); err != nil {
		t.Fatal(err)
	}
	var c copies
	for _, program := range []string{script, large, closed, filepath.Join(dir, "missing"), "true", dir} {
		if got := c.path(program); got != program {
			t.Errorf("%q runs from %q", program, got)
		}
	}
	for i := range maxCopies + 2 {
		program := filepath.Join(dir, strings.Repeat("x", i+1))
		copyOf(t, "/bin/true", program)
		c.path(program)
	}
	if len(c.held) > maxCopies {
		t.Errorf("%d programs are held", len(c.held))
	}
}

// TestCopyInNeed: a program that could not be copied for want of descriptors is
// copied later.
func TestCopyInNeed(t *testing.T) {
	var c copies
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	path := c.path("/bin/true")
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if path != "/bin/true" || c.path("/bin/true") == path {
		t.Errorf("first it runs from %q, then from %q", path, c.path("/bin/true"))
	}
}

// TestProgramWhoseCopyIsRefused: where a copy cannot be executed, as a policy may
// have it, the program itself is, and the copy is not tried again.
func TestProgramWhoseCopyIsRefused(t *testing.T) {
	var c copies
	if c.path("/bin/true") == "/bin/true" {
		t.Fatal("there is no copy")
	}
	k := &children{known: map[int]*process{}, copies: copies{held: c.held}}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), c.held["/bin/true"].fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	p, err := k.fork([]string{"/bin/true"}, "/", []*os.File{null, null, null}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantSuccess(t, p)
	if got := k.copies.path("/bin/true"); got != "/bin/true" {
		t.Errorf("next it runs from %q", got)
	}
}

// wantSuccess waits for the end of a process that fork has started.
func wantSuccess(t *testing.T, p *process) {
	t.Helper()
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("it ended with %v, %v", status, err)
	}
	_ = unix.Close(p.pidfd)
}

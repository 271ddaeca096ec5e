package flock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestEvict: a program that a killed one has left in a session of its own holds the lock
// that was lent to that, and is ended, and nobody else.
func TestEvict(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := flock.Evict(t.Context(), path, 0); err != nil {
		t.Errorf("of a file that is not there: %v", err)
	}
	first := take(t, path, flock.Exclusive)
	// The shell gives the program three descriptors in place of those that it has.
	cmd := exec.Command("sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' 3</dev/null 4</dev/null 5</dev/null & wait")
	first.Lend(cmd)
	pid := firstLine(t, cmd, first)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if take(t, path, flock.Exclusive) != nil {
		t.Fatal("the lock is free while the program that it was lent to runs")
	}
	// Its path in another one's environment makes nobody its holder.
	other := exec.Command("sleep", "1000")
	other.Env = []string{"FILE=" + path}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := flock.Evict(ctx, path, 0); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with its context: %v", err)
	}
	if err := flock.Evict(t.Context(), path, 0); err != nil {
		t.Error(err)
	}
	ends(t, pid)
	l := take(t, path, flock.Exclusive)
	if l == nil {
		t.Error("the lock is not free")
	}
	l.Release()
	if err := other.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("a bystander was ended: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
}

// TestLendLeavesTheFilesOfTheCommand: the program has all that it was to have, in their
// places, and the lock.
func TestLendLeavesTheFilesOfTheCommand(t *testing.T) {
	for _, count := range []int{0, 1, 96, 97, 98, 99, 150} {
		l := take(t, filepath.Join(t.TempDir(), "lock"), flock.Exclusive)
		cmd := exec.Command("true")
		for i := range count {
			cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(1<<20+i), strconv.Itoa(i)))
		}
		own := slices.Clone(cmd.ExtraFiles)
		l.Lend(cmd)
		if !slices.Equal(cmd.ExtraFiles[:count], own) {
			t.Errorf("of %d files of the command's own some are lost", count)
		}
		if at := 3 + len(cmd.ExtraFiles) - 1; cmd.ExtraFiles[at-3] == nil || at != max(100, 3+count) {
			t.Errorf("with %d files the lock is descriptor %d", count, at)
		}
		l.Release()
	}
}

// ends waits until a process has ended: one that is killed has no files any more some
// time before that.
func ends(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !procstat.Ended(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program runs on")
		}
	}
}

// firstLine starts the command, gives up the lock that was lent to it, and returns the
// first line that it says, a process's id.
func firstLine(t *testing.T, cmd *exec.Cmd, lent *flock.Lock) (pid int) {
	t.Helper()
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lent.Release()
	if _, err := fmt.Fscanln(said, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestEvictEndsAllOfIt: what a holder has started is ended with it, also if it has closed the
// lock.
func TestEvictEndsAllOfIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := take(t, path, flock.Exclusive)
	cmd := exec.Command("bash", "-c", "(setsid bash -c 'sleep 1000 & echo $!; wait' 100>&- & wait) & wait")
	l.Lend(cmd)
	pid := firstLine(t, cmd, l)
	if err := flock.Evict(t.Context(), path, 0); err != nil {
		t.Error(err)
	}
	if !procstat.Ended(pid) {
		t.Error("it runs on")
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = cmd.Wait() // it was killed
}

// TestEvictWaits: who ends in the grace is not killed.
func TestEvictWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := take(t, path, flock.Exclusive)
	cmd := exec.Command("sh", "-c", "sleep 0.2; exit 7")
	l.Lend(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if err := flock.Evict(t.Context(), path, time.Minute); err != nil {
		t.Error(err)
	}
	var ended *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &ended) || ended.ExitCode() != 7 {
		t.Errorf("it ended with %v, want 7", err)
	}
}

// TestEvictSparesOthers: who only reads the file, and who has locked another one that has
// its name in a mount namespace of its own, is no holder.
func TestEvictSparesOthers(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	l := take(t, path, flock.Exclusive)
	defer l.Release()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	reader := exec.Command("sh", "-c", "echo; exec sleep 1000")
	reader.ExtraFiles = []*os.File{file}
	namesake := exec.Command("sh", "-c", "mount -t tmpfs none "+dir+" && exec 9>"+path+" && flock 9 && echo; exec sleep 1000")
	namesake.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	for _, cmd := range []*exec.Cmd{reader, namesake} {
		said, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill() }()
		if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it looks once in any case
	if err := flock.Evict(ctx, path, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("of a lock that this process has: %v", err)
	}
	for what, cmd := range map[string]*exec.Cmd{"a reader": reader, "a namesake's holder": namesake} {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var ended *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != unix.SIGTERM {
			t.Errorf("%s was ended: %v", what, err)
		}
	}
}

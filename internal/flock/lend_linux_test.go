package flock_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// TestEvict: a program that a killed one has left in a session of its own holds the lock
// that was lent to that, and is ended, and nobody else.
func TestEvict(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := flock.Evict(t.Context(), path); err != nil {
		t.Errorf("of a file that is not there: %v", err)
	}
	first := take(t, path, flock.Exclusive)
	// The shell gives the program three descriptors in place of those that it has.
	cmd := exec.Command("sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' 3</dev/null 4</dev/null 5</dev/null & wait")
	first.Lend(cmd)
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first.Release()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
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
	if err := flock.Evict(ctx, path); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with its context: %v", err)
	}
	if err := flock.Evict(t.Context(), path); err != nil {
		t.Error(err)
	}
	if stat, err := os.ReadFile("/proc/" + strings.TrimSpace(line) + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the program runs on: %s", stat)
	}
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

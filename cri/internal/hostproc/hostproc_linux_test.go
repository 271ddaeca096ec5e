package hostproc_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/internal/hostproc"
	"github.com/nodekit-project/nodekit/internal/procstat"
)

type sink struct{ io.Writer }

func (sink) Close() error { return nil }

// start runs a script and returns the first word that it prints.
func start(t *testing.T, s *hostproc.Set, id, script string) string {
	t.Helper()
	r, w := io.Pipe()
	cmd := exec.Command("sh", "-c", script)
	if err := s.Start(id, cmd, w, sink{io.Discard}); err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscan(r, &word); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return word
}

// gone fails the test unless the process ends soon.
func gone(t *testing.T, pid string) {
	t.Helper()
	number, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if procstat.Ended(number) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("process %s still runs", pid)
		}
	}
}

// The children of a process go with it, and Watch, which begins later, hears of
// every end.
func TestAProcessTakesItsGroupAlong(t *testing.T) {
	s := hostproc.NewSet()
	left := start(t, s, "leaver", "sleep 1000 & echo $!; exit 3")
	gone(t, left)
	stubborn := start(t, s, "stubborn", "trap '' TERM; sleep 1000 & echo $!; while :; do wait; done")
	begin := time.Now()
	if err := s.Stop(t.Context(), "stubborn", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Errorf("killed after %v, before its grace was over", took)
	}
	gone(t, stubborn)
	if err := s.Stop(t.Context(), "leaver", time.Hour); err != nil {
		t.Errorf("stopping what has ended: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	codes := map[string]int32{}
	s.Watch(ctx, func(id string, state *os.ProcessState) {
		if codes[id] = hostproc.Code(state); len(codes) == 2 {
			cancel()
		}
	})
	if codes["leaver"] != 3 || codes["stubborn"] != 128+int32(syscall.SIGKILL) {
		t.Errorf("codes %v", codes)
	}
}

type full struct{ sink }

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A full disk does not end a process.
func TestOutputThatCannotBeWritten(t *testing.T) {
	s := hostproc.NewSet()
	if err := s.Start("c", exec.Command("sh", "-c", "for i in 1 2 3; do echo x || exit 1; sleep 0.01; done"), full{}, full{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	code := int32(-1)
	s.Watch(ctx, func(_ string, state *os.ProcessState) { code = hostproc.Code(state); cancel() })
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	s := hostproc.NewSet()
	start(t, s, "c", "trap '' TERM; echo x; while :; do sleep 0.01; done")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx, "c", time.Hour); err == nil {
		t.Error("it ended by itself")
	}
	if err := s.Stop(t.Context(), "c", 0); err != nil {
		t.Error(err)
	}
}

// KillLeft knows processes of another program, also those that left the group.
func TestKillLeft(t *testing.T) {
	id := "test-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	s := hostproc.NewSet()
	pid := start(t, s, id, "setsid sleep 1000 & echo $!; exec sleep 1000")
	other := start(t, s, id+"0", "echo $$; exec sleep 1000")
	if err := hostproc.KillLeft(id); err != nil {
		t.Fatal(err)
	}
	gone(t, strings.TrimSpace(pid))
	if _, err := os.Stat(filepath.Join("/proc", other)); err != nil {
		t.Errorf("a process of another id: %v", err)
	}
	if err := s.Stop(t.Context(), id+"0", 0); err != nil {
		t.Error(err)
	}
}

package supervisor_test

import (
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// TestEnterIsNeverOnTheFirstThread holds that what Enter enters is not seen as
// the whole process's: its first thread is what /proc/self shows, and it does not
// end with its goroutine.
func TestEnterIsNeverOnTheFirstThread(t *testing.T) {
	var first atomic.Int64
	var group sync.WaitGroup
	for range 400 {
		group.Go(func() {
			_, err := supervisor.Start(supervisor.Command{Path: "/nothing", Enter: func() error {
				if unix.Gettid() == unix.Getpid() {
					first.Add(1)
				}
				return nil
			}})
			if err == nil {
				t.Error("a program that is not there was started")
			}
		})
	}
	group.Wait()
	if n := first.Load(); n > 0 {
		t.Errorf("%d of 400 starts entered on the first thread", n)
	}
}

func TestEndMarked(t *testing.T) {
	mark := t.TempDir()
	byArgument := exec.Command("sh", "-c", "read -r line", mark) // waits for a line, without a child that would have no mark
	if _, err := byArgument.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	byEnvironment := exec.Command("sleep", "60")
	byEnvironment.Env = []string{"MARK=" + mark}
	other := exec.Command("sleep", "60")
	for _, cmd := range []*exec.Cmd{byArgument, byEnvironment, other} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	// A process that was killed keeps its id until it is waited for, and no mark.
	if err := supervisor.EndMarked(mark); err != nil {
		t.Error(err)
	}
	for _, cmd := range []*exec.Cmd{byArgument, byEnvironment} {
		if err := cmd.Wait(); err == nil || cmd.ProcessState.String() != "signal: killed" {
			t.Errorf("%v: %v", cmd, cmd.ProcessState)
		}
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("an unmarked process: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait() // it was killed
}

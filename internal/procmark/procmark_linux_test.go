package procmark_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/procmark"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// waiting starts a program that waits for its stdin, and returns its id when it
// has printed a line.
func waiting(t *testing.T, cmd *exec.Cmd) (pid int) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait() // it ends with its stdin, whatever it says
	})
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestCarries(t *testing.T) {
	mark := t.TempDir()
	argument := exec.Command("sh", "-c", "echo; read -r line", mark)
	environment := exec.Command("sh", "-c", "echo; read -r line")
	environment.Env = []string{"MARK=" + mark}
	for name, cmd := range map[string]*exec.Cmd{"argument": argument, "environment": environment} {
		if !procmark.Carries(waiting(t, cmd), mark) {
			t.Errorf("a mark in the %s is not seen", name)
		}
	}
	other := waiting(t, exec.Command("sh", "-c", "echo; read -r line"))
	if procmark.Carries(other, mark) || procmark.Carries(1<<30, mark) {
		t.Error("a process without a mark, or none, carries it")
	}
}

// TestCarriesByRoot has a process as in a container whose monitor was killed: all
// that it has of the mark is its root. A second one sees the same mount and has
// another root.
func TestCarriesByRoot(t *testing.T) {
	testenv.Require(t, testenv.Root)
	mark := t.TempDir()
	const enter = `set -e
mkdir u w m; mount -t tmpfs layers u; mkdir u/up u/work
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/u/up,workdir=$PWD/u/work" m
cd m; mkdir -p old; pivot_root . old; cd /
exec env -i "$@"`
	wait := []string{"/bin/sh", "-c", "echo; read -r line"}
	inside := exec.Command("unshare", append([]string{"--mount", "sh", "-c", enter, "sh"}, wait...)...)
	inside.Dir = mark
	if !procmark.Carries(waiting(t, inside), mark) {
		t.Error("a root below the mark is not seen")
	}
	const see = `set -e
mkdir -p seen; mount --bind seen seen; cd /
exec env -i "$@"`
	beside := exec.Command("unshare", append([]string{"--mount", "sh", "-c", see, "sh"}, wait...)...)
	beside.Dir = mark
	if procmark.Carries(waiting(t, beside), mark) {
		t.Error("a mount below the mark makes a process carry it")
	}
}

// again makes a program that executes itself without end.
func again(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCarriesWhileItExecutes: every fiftieth look or so meets the program where it has
// neither command line nor environment.
func TestCarriesWhileItExecutes(t *testing.T) {
	cmd := exec.Command(again(t))
	cmd.Env = []string{"MARK=just so"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}()
	const looks = 5000
	missed := 0
	for range looks {
		if !procmark.Carries(cmd.Process.Pid, "MARK=just so") {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("of %d looks %d did not see the mark", looks, missed)
	}
}

// TestEnvironOfNone: a process without an environment is not waited for, nor is one that
// is not there.
func TestEnvironOfNone(t *testing.T) {
	cmd := exec.Command("sh", "-c", "echo; read -r line")
	cmd.Env = []string{}
	pid := waiting(t, cmd)
	begin := time.Now()
	if env, err := procmark.Environ(pid); err != nil || len(env) > 0 {
		t.Errorf("the environment is %q, %v", env, err)
	}
	if _, err := procmark.Environ(1 << 30); err == nil {
		t.Error("no process has an environment")
	}
	if took := time.Since(begin); took > time.Second/2 {
		t.Errorf("it took %v", took)
	}
}

// TestKill finds what a process has started that ended after it was listed and before it
// was looked at.
func TestKill(t *testing.T) {
	mark := t.TempDir()
	first := exec.Command("sh", "-c", "echo; read -r line; sleep 1000 <&- >&- 2>&- & echo $!")
	first.Env = []string{"MARK=" + mark, "PATH=" + os.Getenv("PATH")}
	stdin, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	second := 0
	match := func(pid int) bool {
		if pid == first.Process.Pid && second == 0 {
			stdin.Close()
			if _, err := fmt.Fscan(stdout, &second); err != nil {
				t.Error(err)
			}
			if err := first.Wait(); err != nil {
				t.Error(err)
			}
		}
		return procmark.Carries(pid, mark)
	}
	if err := procmark.Kill(match, 10, time.Millisecond); err != nil {
		t.Error(err)
	}
	if !procstat.Ended(second) {
		t.Error("what it has started runs on")
		_ = syscall.Kill(second, syscall.SIGKILL)
	}
	if err := procmark.Kill(func(int) bool { return false }, 2, 0); err != nil {
		t.Errorf("with nobody to kill: %v", err)
	}
}

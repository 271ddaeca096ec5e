package procmark_test

import (
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/nodekit-project/nodekit/internal/procmark"
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

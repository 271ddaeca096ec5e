package scratch_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/scratch"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// owner is set in the environment of this program when it is to make a directory, start a
// process that outlives it, and wait to be killed.
const owner = "SCRATCH_TEST_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(owner) == "" {
		os.Exit(m.Run())
	}
	d, err := scratch.New()
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path(), "file"), nil, 0o600); err != nil {
		panic(err)
	}
	left := exec.Command("sleep", "1000")
	left.Env = []string{"STATE_DIRECTORY=" + d.Path() + "/state"}
	if err := left.Start(); err != nil {
		panic(err)
	}
	fmt.Println(left.Process.Pid, d.Path())
	select {}
}

// killed makes a directory whose owner is killed, and starts a process for it.
func killed(t *testing.T) (path string, left *os.Process) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), owner+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(line, &pid, &path); err != nil {
		t.Fatal(err)
	}
	if left, err = os.FindProcess(pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = left.Kill() })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	return path, left
}

func sweep(t *testing.T) (swept []string) {
	t.Helper()
	if err := scratch.Sweep(func(path string) { swept = append(swept, path) }); err != nil {
		t.Error(err)
	}
	return swept
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// TestSweep: what a killed process has left is gone, with its processes and mounts, and
// nothing else.
func TestSweep(t *testing.T) {
	testenv.Require(t, testenv.Root)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	live, err := scratch.New()
	if err != nil {
		t.Fatal(err)
	}
	dead, left := killed(t)
	if err := os.Mkdir(dead+"/mounted", 0o700); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(tmp, "precious")
	if err := errors.Join(os.Mkdir(precious, 0o700), os.WriteFile(precious+"/file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := mount.Bind(precious, dead+"/mounted", nil); err != nil {
		t.Fatal(err)
	}
	// A directory of the same kind of name without the marker, and one whose name begins
	// with a dead one's.
	other, longer := filepath.Join(tmp, "nk123"), dead+"0"
	if err := errors.Join(os.Mkdir(other, 0o700), os.Mkdir(longer, 0o700)); err != nil {
		t.Fatal(err)
	}
	// Somebody who looks at what is left, and a process for another directory.
	innocent := map[string]*exec.Cmd{"looks": exec.Command("sleep", "1000"), "of another directory": exec.Command("sleep", "1000")}
	innocent["looks"].Env = []string{"PWD=" + dead + "/mounted", "OLDPWD=" + dead + "/", "_=" + dead + "/x"}
	innocent["of another directory"].Env = []string{"STATE_DIRECTORY=" + longer + "/state"}
	for _, cmd := range innocent {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	}

	if swept := sweep(t); !slices.Equal(swept, []string{dead}) {
		t.Errorf("swept %q, want %q", swept, dead)
	}
	if exists(dead) {
		t.Error("the dead process's directory is left")
	}
	for _, path := range []string{live.Path(), precious + "/file", other, longer} {
		if !exists(path) {
			t.Errorf("%s is gone", path)
		}
	}
	if err := left.Signal(syscall.Signal(0)); err == nil && !zombie(left.Pid) {
		t.Error("the dead process's child runs")
	}
	for name, cmd := range innocent {
		if zombie(cmd.Process.Pid) {
			t.Errorf("the process that %s was killed", name)
		}
	}
	if err := live.Remove(); err != nil || exists(live.Path()) {
		t.Errorf("removed: %v", err)
	}
	if swept := sweep(t); len(swept) > 0 {
		t.Errorf("swept %q once more", swept)
	}
}

// TestSweepForeign: a marker that others could have put there proves nothing.
func TestSweepForeign(t *testing.T) {
	testenv.Require(t, testenv.Root)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for name, mode := range map[string]os.FileMode{"nk1": 0o777, "nk2": 0o700} {
		dir := filepath.Join(tmp, name)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode), os.WriteFile(dir+"/.nodekit-scratch", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(tmp, "nk2"), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(tmp, "nk1"), filepath.Join(tmp, "nk3")); err != nil {
		t.Fatal(err)
	}
	if swept := sweep(t); len(swept) > 0 {
		t.Errorf("swept %q", swept)
	}
}

// zombie reports whether a process has ended, whether or not its parent has noticed.
func zombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(raw) == 0
}

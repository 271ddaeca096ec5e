//go:build amd64 || arm64

package oneshot_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const entry = "-ldflags=-E github.com/nodekit-project/nodekit/internal/oneshot.entry"

type shown struct {
	Procs             int
	Before, Env, Args []string
	Files             uint64 // that may be open
	Child             string // the same of a child
}

// build builds the program that shows how it was started.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "show")
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, flags...), "-o", file, "./testdata/show")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// limited runs the program with a limit of 100 open files. This process has raised its own.
func limited(t *testing.T, env []string, program ...string) (got shown) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "prlimit", append([]string{"--nofile=100:"}, program...)...)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%.60q with %.60q: %v", program, env, err)
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestEntry: the runtime finds what it is to find, and the arguments and the environment as
// they were given, whatever their number and length.
func TestEntry(t *testing.T) {
	file := build(t, entry)
	usual := limited(t, []string{}, build(t))
	none := []string{"1", "memprofilerate=0"}
	for _, c := range []struct {
		args, env, before []string
		procs             int
	}{
		{nil, []string{}, none, 1},
		{nil, []string{"A=1"}, none, 1},
		{[]string{"x", ""}, []string{"A=1", "GOMAXPROC=3", "B=" + strings.Repeat("b", 1<<16), "GOMAXPROCSX=3", "GODEBU=x", "GODEBUGS=y"}, none, 1},
		{nil, []string{"A=1", "GOMAXPROCS=7"}, []string{"7", none[1]}, 7},
		{nil, []string{"GODEBUG=gctrace=0"}, []string{"1", "gctrace=0"}, 1},
		{nil, []string{"GODEBUG=", "GOMAXPROCS="}, []string{"", ""}, runtime.NumCPU()},
	} {
		program := append([]string{file}, c.args...)
		got := limited(t, c.env, program...)
		want := shown{c.procs, c.before, c.env, program, usual.Files, "100"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%.60q with %.60q: %.2000s", c.args, c.env, diff)
		}
	}
}

// TestWithoutEntry: a program that is linked as usual starts as usual.
func TestWithoutEntry(t *testing.T) {
	got := limited(t, []string{"GOMAXPROCS=5"}, build(t))
	if got.Procs != 5 || got.Files <= 100 || got.Child != "100" {
		t.Errorf("%+v", got)
	}
}

// TestMounts: the runtime does not read the host's mounts; it does in a program that is
// linked as usual, or else this test would show nothing.
func TestMounts(t *testing.T) {
	if !readsMounts(t, build(t)) {
		t.Error("without the entry the mounts are not read: it may not be needed any more")
	}
	if readsMounts(t, build(t, entry)) {
		t.Error("the runtime reads the mounts")
	}
}

// readsMounts traces the first thread of a program.
func readsMounts(t *testing.T, file string) (reads bool) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(file)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer cmd.Process.Kill()
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			t.Fatal(err)
		}
		if !status.Stopped() {
			if status != 0 {
				t.Errorf("%s: wait status %#x", file, status)
			}
			return reads
		}
		if strings.HasSuffix(opens(t, pid), "/mountinfo") {
			reads = true
		}
		signal := 0
		if s := status.StopSignal(); s != unix.SIGTRAP {
			signal = int(s)
		}
		if err := unix.PtraceSyscall(pid, signal); err != nil {
			t.Fatal(err)
		}
	}
}

// opens is the file that a stopped thread is about to open, if any.
func opens(t *testing.T, pid int) string {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	text, err := os.ReadFile(proc + "syscall")
	if err != nil {
		t.Fatal(err)
	}
	call := strings.Fields(string(text)) // its number, its arguments, ...
	if len(call) < 3 || call[0] != strconv.Itoa(unix.SYS_OPENAT) {
		return ""
	}
	address, err := strconv.ParseInt(call[2], 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(proc + "mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	path := make([]byte, 64)
	n, err := memory.ReadAt(path, address)
	if n == 0 {
		t.Fatal(err)
	}
	path, _, _ = bytes.Cut(path[:n], []byte{0})
	return string(path)
}

// TestCgo: a program with cgo, which would start without its C library, is not linked.
func TestCgo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "build", entry, "-o", filepath.Join(t.TempDir(), "show"), "./testdata/show")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "missing entry symbol") {
		t.Errorf("%v\n%s", err, out)
	}
}

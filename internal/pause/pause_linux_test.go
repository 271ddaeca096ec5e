//go:build amd64 || arm64

package pause_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/syncbuf"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

const spoken = "the runtime has started\n"

// hold builds a program that pauses.
func hold(t *testing.T, flags string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hold")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags="+flags, "-o", file, "./testdata/hold")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// TestPause: the first process of a PID namespace reaps its orphans and ends as it is told,
// with the Go runtime and without it.
func TestPause(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, c := range map[string]struct {
		flags, says string
		single      bool
	}{
		"with the runtime": {"", spoken, false},
		"without it":       {"-E github.com/nodekit-project/nodekit/internal/pause.entry", "", true},
	} {
		file := hold(t, c.flags)
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			t.Run(fmt.Sprintf("%s, %v", name, sig), func(t *testing.T) {
				cmd, said := run(t, file, "pause")
				if c.says != "" {
					await(t, "its first line", func() bool { return said.String() == c.says })
				}
				pid := cmd.Process.Pid
				for range 20 {
					orphan(t, pid)
				}
				await(t, "the end of the orphans", func() bool { return children(t, pid) == "" })
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				if single := bytes.Contains(status, []byte("\nThreads:\t1\n")); err != nil || single != c.single {
					t.Errorf("%v, %s", err, status)
				}
				end(t, cmd, sig)
				if said.String() != c.says {
					t.Errorf("it said %q", said)
				}
			})
		}
	}
}

// TestOtherArguments: only the one argument pauses before the runtime starts.
func TestOtherArguments(t *testing.T) {
	file := hold(t, "-E github.com/nodekit-project/nodekit/internal/pause.entry")
	for _, args := range [][]string{{}, {"pause", "x"}, {"pauses"}, {"paus"}, {""}, {"x", "pause"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			cmd, said := run(t, file, args...)
			await(t, "its first line", func() bool { return said.String() == spoken })
			end(t, cmd, syscall.SIGTERM)
		})
	}
}

// run starts the program as the first process of a PID namespace.
func run(t *testing.T, file string, args ...string) (cmd *exec.Cmd, said *syncbuf.Buffer) {
	t.Helper()
	said = new(syncbuf.Buffer)
	cmd = exec.CommandContext(t.Context(), file, args...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, said
}

// end sends the signal until the process has ended with 0: it may not listen yet.
func end(t *testing.T, cmd *exec.Cmd, sig syscall.Signal) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	await(t, "its end", func() bool {
		_ = cmd.Process.Signal(sig) // it may have ended
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return true
		default:
			return false
		}
	})
}

// orphan leaves a process that ends soon in the PID namespace of another.
func orphan(t *testing.T, pid int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", "--target", fmt.Sprint(pid), "--pid", "sh", "-c", "sleep 0.1 >/dev/null 2>&1 &")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func children(t *testing.T, pid int) string {
	t.Helper()
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(list)
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("waiting for %s", what)
		}
	}
}

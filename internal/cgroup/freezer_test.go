package cgroup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// kernelSaysFrozen asks the kernel's own files.
func kernelSaysFrozen(t *testing.T, path string) bool {
	t.Helper()
	dirs, err := cgroup.Dirs(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		for file, says := range map[string]string{"freezer.state": "FROZEN\n", "cgroup.events": "frozen 1\n"} {
			if text, err := os.ReadFile(filepath.Join(d, file)); err == nil && strings.Contains(string(text), says) {
				return true
			}
		}
	}
	return false
}

// TestFreezer: when Freeze returns everything stands still, also what was frozen
// already, and Thaw is for all of it.
func TestFreezer(t *testing.T) {
	path := fresh(t)
	if err := cgroup.Freeze(path); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("freezing a cgroup that is not there: %v", err)
	}
	if err := cgroup.Thaw(path); err != nil {
		t.Errorf("thawing a cgroup that is not there: %v", err)
	}
	if err := cgroup.Create(path); err != nil {
		t.Fatal(err)
	}
	cmd := enter(t, path)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for _, step := range []struct {
		do   func(string) error
		want bool
	}{{cgroup.Thaw, false}, {cgroup.Freeze, true}, {cgroup.Freeze, true}, {cgroup.Thaw, false}, {cgroup.Thaw, false}} {
		if err := step.do(path); err != nil {
			t.Fatal(err)
		}
		frozen, err := cgroup.Frozen(path)
		if err != nil || frozen != step.want || kernelSaysFrozen(t, path) != step.want {
			t.Errorf("Frozen = %v, %v, and the kernel says %v; want %v", frozen, err, kernelSaysFrozen(t, path), step.want)
		}
	}
	if err := cgroup.Kill(path); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// TestHalfMade: what an OCI runtime has made that was killed is a cgroup in some
// hierarchies alone, with a process in it. It can be ended whichever they are.
func TestHalfMade(t *testing.T) {
	path := fresh(t)
	dirs, err := cgroup.Dirs(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			_ = cmd.Process.Kill()
			t.Logf("%s takes no process: %v", dir, err) // a cpuset without processors
		} else if err := cgroup.Thaw(path); err != nil {
			t.Errorf("%s alone: %v", dir, err)
		}
		if err := cgroup.Destroy(path); err != nil || cgroup.Exists(path) {
			t.Errorf("%s alone: %v", dir, err)
		}
		if err := <-ended; err == nil {
			t.Errorf("%s alone: the process ended by itself", dir)
		}
	}
}

package cgroup_test

import (
	"errors"
	"os"
	"path/filepath"
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

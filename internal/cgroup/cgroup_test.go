package cgroup_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// fresh returns the path of a cgroup that does not exist and is removed after
// the test, with what the test made below it.
func fresh(t *testing.T) string {
	t.Helper()
	testenv.Require(t, testenv.Root)
	path := fmt.Sprintf("/nodekit-test-%08x", rand.Uint32())
	t.Cleanup(func() {
		if err := errors.Join(cgroup.Kill(path), cgroup.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	return path
}

// enter starts a sleeping process inside the cgroup.
func enter(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	files, err := cgroup.ProcsFiles(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

func TestLife(t *testing.T) {
	path := fresh(t) + "/pod/container"
	if cgroup.Exists(path) {
		t.Fatal("it exists before Create")
	}
	for range 2 {
		if err := cgroup.Create(path); err != nil {
			t.Fatal(err)
		}
	}
	cmd := enter(t, path) // on v1 this fails unless cpuset was filled
	if pids, err := cgroup.Processes(filepath.Dir(path)); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Fatalf("Processes = %v, %v; want [%d]", pids, err, cmd.Process.Pid)
	}
	if u, err := cgroup.Read(path); err != nil || u.PIDs != 1 || u.Limit != 0 {
		t.Fatalf("Read = %+v, %v; want one process without a limit", u, err)
	}
	if err := cgroup.Kill(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the process ended with %v; want a signal", cmd.ProcessState)
	}
	for range 2 {
		if err := cgroup.Remove(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
	}
	if cgroup.Exists(path) {
		t.Fatal("it exists after Remove")
	}
	if err := cgroup.Kill(path); err != nil {
		t.Fatalf("killing a cgroup that is not there: %v", err)
	}
}

// TestDestroy: what runs in the cgroup ends, what lies below it goes, and nothing
// is there in the end, nor was that wrong.
func TestDestroy(t *testing.T) {
	path := fresh(t)
	if err := cgroup.Create(path); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(path, "below")
	if err := cgroup.Create(below); err != nil {
		t.Fatal(err)
	}
	cmd := enter(t, below)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for range 2 {
		if err := cgroup.Destroy(path); err != nil || cgroup.Exists(path) {
			t.Errorf("Destroy: %v; it exists: %v", err, cgroup.Exists(path))
		}
	}
	if err := <-ended; err == nil {
		t.Error("the process ended by itself")
	}
	if err := cgroup.Create(path); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Destroy(path); err != nil || cgroup.Exists(path) {
		t.Errorf("Destroy of an empty one: %v", err)
	}
}

func TestLimits(t *testing.T) {
	path := fresh(t)
	if err := cgroup.Create(path); err != nil {
		t.Fatal(err)
	}
	l := cgroup.Limits{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 64 << 20, PIDs: 7}
	if err := cgroup.Set(path, l); err != nil {
		t.Fatal(err)
	}
	if u, err := cgroup.Read(path); err != nil || u.Limit != 64<<20 {
		t.Fatalf("Read = %+v, %v; want a limit of 64 MiB", u, err)
	}
	if err := cgroup.Set(path, cgroup.Limits{Memory: -1}); err != nil {
		t.Fatal(err)
	}
	if u, err := cgroup.Read(path); err != nil || u.Limit != 0 {
		t.Fatalf("Read = %+v, %v; want no limit", u, err)
	}
	dirs, err := cgroup.Dirs(path)
	if err != nil {
		t.Fatal(err)
	}
	var pids string
	for _, d := range dirs {
		if b, err := os.ReadFile(filepath.Join(d, "pids.max")); err == nil {
			pids = strings.TrimSpace(string(b))
		}
	}
	if pids != "7" {
		t.Errorf("pids.max = %q, want 7", pids)
	}
}

// limitsOf returns what the files have that Limits write, by name.
func limitsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	dirs, err := cgroup.Dirs(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, dir := range dirs {
		for _, pattern := range []string{"cpu.shares", "cpu.weight", "cpu.cfs_*_us", "cpu.max", "cpuset.cpus", "cpuset.mems", "memory.*limit_in_bytes", "memory*.max", "pids.max", "hugetlb.*.max", "hugetlb.*limit_in_bytes"} {
			files, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, f := range files {
				if text, err := os.ReadFile(f); err == nil {
					all[filepath.Base(f)] = string(text)
				}
			}
		}
	}
	return all
}

// TestSetAllOrNothing: whichever limit is impossible, the others stay what they were,
// also those that there were none of.
func TestSetAllOrNothing(t *testing.T) {
	change := cgroup.Limits{CPUShares: 600, CPUQuota: 70000, CPUPeriod: 90000, Memory: 96 << 20, PIDs: 9, CPUs: "0", Mems: "0"}
	impossible := map[string]func(*cgroup.Limits){
		"a processor that is not there": func(l *cgroup.Limits) { l.CPUs = "7000" },
		"memory that is not there":      func(l *cgroup.Limits) { l.Mems = "900" },
		"a quota that is too short":     func(l *cgroup.Limits) { l.CPUQuota = 1 },
		"a period that is too long":     func(l *cgroup.Limits) { l.CPUPeriod = 1 << 40 },
		"too many processes":            func(l *cgroup.Limits) { l.PIDs = 1 << 40 },
	}
	for name, limits := range map[string]cgroup.Limits{
		"without limits": {},
		"with limits":    {CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 64 << 20, PIDs: 7},
	} {
		t.Run(name, func(t *testing.T) {
			path := fresh(t)
			if err := errors.Join(cgroup.Create(path), cgroup.Set(path, limits)); err != nil {
				t.Fatal(err)
			}
			before := limitsOf(t, path)
			if len(before) < 4 {
				t.Fatalf("there are only the files %v", before)
			}
			for what, spoil := range impossible {
				l := change
				spoil(&l)
				err := cgroup.Set(path, l)
				if err == nil {
					t.Errorf("%s was given", what)
				}
				if diff := cmp.Diff(before, limitsOf(t, path)); diff != "" {
					t.Errorf("after %s (%v) (-want +got):\n%s", what, err, diff)
				}
			}
			if err := cgroup.Set(path, change); err != nil {
				t.Errorf("what is possible: %v", err)
			}
		})
	}
}

func TestPathsThatAreRefused(t *testing.T) {
	for _, path := range []string{"", "/", "a", "/a/../..", "/a/", "//a", "/../a"} {
		for name, f := range map[string]func(string) error{"Create": cgroup.Create, "Remove": cgroup.Remove, "Kill": cgroup.Kill, "Destroy": cgroup.Destroy} {
			if err := f(path); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s(%q) = %v, want fault.Invalid", name, path, err)
			}
		}
	}
}

package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBefore: of the files of either version those are remembered that a change names,
// and they are written back. Plain files stand for them, so that one machine shows both
// versions: what kernels make of the texts is for TestSetAllOrNothing.
func TestBefore(t *testing.T) {
	all := Limits{
		CPUShares: 5, CPUQuota: 5, Memory: 5, PIDs: 5, CPUs: "0", Mems: "0",
		Hugepages: map[string]uint64{"2MB": 5}, Unified: map[string]string{"memory.high": "5", "../outside": "5"},
	}
	v1 := map[string]string{"": "unified"} // a hybrid host's
	for _, controller := range []string{"cpu", "memory", "pids", "cpuset", "hugetlb"} {
		v1[controller] = controller
	}
	for name, c := range map[string]struct {
		dirs    map[string]string
		version int
		limits  Limits
		want    string
	}{
		"v1": {v1, 1, all, "cpu/cpu.shares cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max " +
			"cpuset/cpuset.cpus cpuset/cpuset.mems hugetlb/hugetlb.2MB.limit_in_bytes hugetlb/hugetlb.2MB.rsvd.limit_in_bytes"},
		"v2": {map[string]string{"": "all"}, 2, all, "all/cpu.weight all/cpu.max all/memory.swap.max all/memory.max all/pids.max " +
			"all/cpuset.cpus all/cpuset.mems all/hugetlb.2MB.max all/hugetlb.2MB.rsvd.max all/memory.high"},
		"v1 without a controller": {map[string]string{"cpu": "cpu"}, 1, Limits{Memory: 5, CPUPeriod: 5}, "cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us"},
		"nothing":                 {v1, 1, Limits{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root, dirs := t.TempDir(), map[string]string{}
			for controller, dir := range c.dirs {
				dirs[controller] = filepath.Join(root, dir)
				if err := os.MkdirAll(dirs[controller], 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var files []string
			for _, f := range c.limits.files(dirs, c.version) {
				name, err := filepath.Rel(root, f)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, name)
			}
			if diff := cmp.Diff(c.want, strings.Join(files, " ")); diff != "" {
				t.Errorf("the files (-want +got):\n%s", diff)
			}
			for _, f := range files {
				write(t, filepath.Join(root, f), "was\n")
			}
			had := remember(dirs, c.version, c.limits)
			if len(had) != len(files) || len(had.changed()) > 0 {
				t.Errorf("of %d files it remembers %d, of which %d have changed", len(files), len(had), len(had.changed()))
			}
			for _, f := range files {
				write(t, filepath.Join(root, f), "new\n")
			}
			if err := had.restore(); err != nil || len(had.changed()) > 0 {
				t.Errorf("restoring: %v; %v", err, had.changed())
			}
		})
	}
}

// TestRestoreSaysWhatStays: and puts back the others.
func TestRestoreSaysWhatStays(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pids.max"), "7\n")
	write(t, filepath.Join(dir, "memory.max"), "max\n")
	had := remember(map[string]string{"": dir}, 2, Limits{PIDs: 5, Memory: 5})
	write(t, filepath.Join(dir, "pids.max"), "5\n")
	if err := os.Remove(filepath.Join(dir, "memory.max")); err != nil {
		t.Fatal(err)
	}
	err := had.restore()
	if err == nil || !strings.Contains(err.Error(), `memory.max stays "" and was "max"`) || strings.Contains(err.Error(), "pids") {
		t.Errorf("restoring says %v", err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "pids.max")); err != nil || string(now) != "7\n" {
		t.Errorf("pids.max is %q, %v", now, err)
	}
}

// TestRestoreAddedDevices: io.max has a line for each device that is limited, and those
// that a change added are reset.
func TestRestoreAddedDevices(t *testing.T) {
	const none = " rbps=max wbps=max riops=max wiops=max\n"
	for name, c := range map[string]struct{ file, was, now, want string }{
		"none added":         {"io.max", "8:0 rbps=1\n", "8:0 rbps=2\n", "8:0 rbps=1\n"},
		"one added":          {"io.max", "8:0 rbps=1\n", "8:16 rbps=2\n8:0 rbps=2\n", "8:16" + none + "8:0 rbps=1\n"},
		"the first":          {"io.max", "", "8:0 rbps=2\n", "8:0" + none},
		"behind another":     {"io.max", "8:0 rbps=1\n8:16 rbps=1\n", "8:16 rbps=2\n", "8:0 rbps=1\n8:16 rbps=1\n"},
		"like another":       {"io.max", "8:160 rbps=1\n", "8:16 rbps=2\n", "8:16" + none + "8:160 rbps=1\n"},
		"in another setting": {"pids.max", "7\n", "5\n", "7\n"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), c.file)
			write(t, file, c.was)
			had := remember(map[string]string{"": filepath.Dir(file)}, 2, Limits{Unified: map[string]string{c.file: ""}})
			if len(had) != 1 {
				t.Fatalf("it remembers %d files", len(had))
			}
			write(t, file, c.now)
			if err := had[0].write(); err != nil {
				t.Fatal(err)
			}
			// Nothing takes the lines from a plain file: they stand there as they were written.
			if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), c.want) {
				t.Errorf("it has written %q, %v; want %q", text, err, c.want)
			}
		})
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

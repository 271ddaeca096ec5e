package cgroup_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestSlice(t *testing.T) {
	for files, want := range map[string]string{
		"/kit":             "/kit.slice",
		"/kit-1a":          "/kit_1a.slice",
		"/kit-1a/pods":     "/kit_1a.slice/kit_1a-pods.slice",
		"/kit/pods/pod1-2": "/kit.slice/kit-pods.slice/kit-pods-pod1_2.slice",
	} {
		if got := cgroup.Slice(files); got != want || !cgroup.IsUnit(got) {
			t.Errorf("Slice(%q) = %q, want %q", files, got, want)
		}
	}
	if got := cgroup.Scope("/kit.slice", "a", "b-c"); got != "/kit.slice/a-b-c.scope" || !cgroup.IsUnit(got) {
		t.Errorf("Scope = %q", got)
	}
	if cgroup.IsUnit("/kit.slice/x") {
		t.Error("a cgroup in a slice passes for a unit")
	}
}

// TestUnitsWithoutSystemd: nothing is made that systemd would not know of, and
// what is not there can be removed.
func TestUnitsWithoutSystemd(t *testing.T) {
	if cgroup.Systemd() {
		t.Log("systemd runs here: only the names are looked at")
	} else if err := cgroup.Create("/nodekit_absent.slice"); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("creating a slice: %v, want fault.FailedPrecondition", err)
	}
	for _, p := range []string{"/kit.slice/other.slice", "/kit.slice/other-pods.slice", "/kit-pods.slice", "/nodekit-x/kit.slice", "/kit--x.slice"} {
		if err := cgroup.Create(p); !errors.Is(err, fault.Invalid) {
			t.Errorf("Create(%q) = %v, want fault.Invalid", p, err)
		}
	}
	if err := cgroup.Create("/kit.slice/a-b.scope"); !errors.Is(err, fault.Invalid) {
		t.Errorf("creating a scope: %v, want fault.Invalid", err)
	}
	if err := cgroup.Remove("/nodekit_absent.slice"); err != nil {
		t.Errorf("removing a slice that is not there: %v", err)
	}
}

// freshSlice returns the path of a slice that does not exist and is removed
// after the test, with everything below it.
func freshSlice(t *testing.T) string {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Systemd)
	p := cgroup.Slice(fmt.Sprintf("/nodekit-test-%08x", rand.Uint32()))
	t.Cleanup(func() {
		if err := errors.Join(cgroup.Kill(p), cgroup.Remove(p)); err != nil {
			t.Error(err)
		}
	})
	return p
}

// known reports whether systemd has the unit loaded.
func known(t *testing.T, unit string) bool {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--property=ActiveState", "--value", path.Base(unit)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out) == "active\n" || string(out) == "failed\n"
}

func TestSystemdLife(t *testing.T) {
	slice := freshSlice(t)
	pod := path.Join(slice, path.Base(slice[:len(slice)-len(".slice")])+"-pod1.slice")
	for range 2 {
		if err := cgroup.Create(pod); err != nil {
			t.Fatal(err)
		}
	}
	if err := cgroup.Set(pod, cgroup.Limits{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 64 << 20, PIDs: 7}); err != nil {
		t.Fatal(err)
	}
	if u, err := cgroup.Read(pod); err != nil || u.Limit != 64<<20 {
		t.Fatalf("Read = %+v, %v; want a limit of 64 MiB", u, err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scope := cgroup.Scope(pod, "test", "main")
	if err := cgroup.Enter(scope, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if pids, err := cgroup.Processes(pod); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid || !cgroup.Exists(scope) {
		t.Fatalf("Processes = %v, %v; want [%d], in its scope", pids, err, cmd.Process.Pid)
	}
	// A limit survives when systemd goes through its units.
	if err := exec.Command("systemctl", "daemon-reload").Run(); err != nil {
		t.Fatal(err)
	}
	if u, err := cgroup.Read(pod); err != nil || u.Limit != 64<<20 {
		t.Errorf("after a reload Read = %+v, %v; want a limit of 64 MiB", u, err)
	}
	if err := cgroup.Prune(slice); err != nil || !cgroup.Exists(scope) {
		t.Fatalf("Prune took a slice that is in use: %v", err)
	}
	if err := cgroup.Kill(pod); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the process ended with %v; want a signal", cmd.ProcessState)
	}
	for range 2 {
		if err := errors.Join(cgroup.Remove(scope), cgroup.Remove(pod)); err != nil {
			t.Fatal(err)
		}
	}
	if cgroup.Exists(pod) || known(t, pod) || known(t, scope) {
		t.Error("it exists after Remove")
	}
	if err := cgroup.Prune(slice); err != nil || cgroup.Exists(slice) || known(t, slice) {
		t.Errorf("an empty slice is there after Prune, %v", err)
	}
}

// TestSystemdRemoveSparesProcesses: removing a slice in which something runs
// kills nothing; systemd by itself would.
func TestSystemdRemoveSparesProcesses(t *testing.T) {
	slice := freshSlice(t)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Create(slice); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Enter(cgroup.Scope(slice, "test", "main"), cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := cgroup.Remove(slice); err == nil {
		t.Error("a slice in which a process runs was removed")
	}
	select {
	case <-ended:
		t.Error("the process was killed")
	case <-time.After(100 * time.Millisecond):
	}
}

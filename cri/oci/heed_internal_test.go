package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestHeeds: a property that an OCI runtime does not declare is refused by name.
func TestHeeds(t *testing.T) {
	const (
		old    = `{"ociVersionMin": "1.0.0", "ociVersionMax": "1.0.2-dev", "linux": {}}`
		middle = `{"ociVersionMax": "1.2.0", "linux": {"memoryPolicy": null, "intelRdt": {"enabled": true}}}`
		recent = `{"ociVersionMax": "1.3.0+dev", "linux": {"netDevices": {"enabled": true},
			"memoryPolicy": {"modes": ["MPOL_BIND"], "flags": ["MPOL_F_STATIC_NODES"]}, "intelRdt": {"schemata": true, "monitoring": true}}}`
	)
	all := func() *specs.Spec {
		return &specs.Spec{
			Process: &specs.Process{Scheduler: &specs.Scheduler{Policy: specs.SchedBatch}, IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}},
			Linux: &specs.Linux{
				NetDevices:   map[string]specs.LinuxNetDevice{"eth9": {}},
				MemoryPolicy: &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}},
				IntelRdt:     &specs.LinuxIntelRdt{Schemata: []string{"MB:0=50"}, EnableMonitoring: true},
			},
		}
	}
	late := []string{"linux.netDevices", "linux.memoryPolicy", "linux.intelRdt.schemata", "linux.intelRdt.enableMonitoring"}
	otherFlags := all()
	otherFlags.Linux.MemoryPolicy.Flags = []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes}
	for name, c := range map[string]struct {
		program string // what follows on the interpreter's line
		doc     *specs.Spec
		refused []string
	}{
		"old":                {"cat <<'E'\n" + old + "\nE", all(), append([]string{"process.scheduler", "process.ioPriority"}, late...)},
		"does not know how":  {"echo unknown command features >&2; exit 1", all(), append([]string{"process.scheduler", "process.ioPriority"}, late...)},
		"says nothing":       {"true", all(), append([]string{"process.scheduler", "process.ioPriority"}, late...)},
		"middle":             {"cat <<'E'\n" + middle + "\nE", all(), late},
		"recent":             {"cat <<'E'\n" + recent + "\nE", all(), nil},
		"recent, other flag": {"cat <<'E'\n" + recent + "\nE", otherFlags, []string{"linux.memoryPolicy"}},
		"not asked":          {"exit 1", &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{IntelRdt: &specs.LinuxIntelRdt{ClosID: "gold"}}}, nil},
	} {
		e := engine{path: filepath.Join(t.TempDir(), "runtime")}
		if err := os.WriteFile(e.path, []byte("#!/bin/sh\n"+c.program+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		err := e.heeds(t.Context(), c.doc)
		if (err == nil) != (len(c.refused) == 0) || err != nil && !errors.Is(err, fault.FailedPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
		var named []string
		if err != nil {
			for _, property := range append([]string{"process.scheduler", "process.ioPriority"}, late...) {
				if strings.Contains(err.Error(), property) {
					named = append(named, property)
				}
			}
		}
		if !slices.Equal(named, c.refused) {
			t.Errorf("%s: %q are refused, want %q", name, named, c.refused)
		}
	}
}

// TestHeedsDoesNotHang: a child that an OCI runtime has left, and that holds its output
// open, is not waited for beyond the time limit.
func TestHeedsDoesNotHang(t *testing.T) {
	dir := t.TempDir()
	e, held := engine{path: filepath.Join(dir, "runtime")}, filepath.Join(dir, "held")
	if err := unix.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.path, []byte("#!/bin/sh\ncat "+held+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan error, 1)
	go func() {
		asked <- e.heeds(ctx, &specs.Spec{Linux: &specs.Linux{NetDevices: map[string]specs.LinuxNetDevice{"eth9": {}}}})
	}()
	child, err := os.OpenFile(held, os.O_WRONLY, 0) // when it runs
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close() // ends it
	cancel()
	select {
	case err := <-asked:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for what the runtime has left")
	}
}

package nri_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/nri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestWordless: an update that the CRI has no word for is refused by its name, also
// where other limits are beside it.
func TestWordless(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx := t.Context()
	s := newSandbox("pod")
	c := newContainer(s, "box")
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, c), a.rt.StartContainer(ctx, c))
	for name, set := range map[string]func(*api.LinuxResources){
		"cpu.realtime_runtime":      func(r *api.LinuxResources) { r.Cpu.RealtimeRuntime = api.Int64(1000) },
		"cpu.realtime_period":       func(r *api.LinuxResources) { r.Cpu.RealtimePeriod = api.UInt64(1000) },
		"memory.reservation":        func(r *api.LinuxResources) { r.Memory.Reservation = api.Int64(1 << 20) },
		"memory.kernel":             func(r *api.LinuxResources) { r.Memory.Kernel = api.Int64(1 << 20) },
		"memory.kernel_tcp":         func(r *api.LinuxResources) { r.Memory.KernelTcp = api.Int64(1 << 20) },
		"memory.swappiness":         func(r *api.LinuxResources) { r.Memory.Swappiness = api.UInt64(0) },
		"memory.disable_oom_killer": func(r *api.LinuxResources) { r.Memory.DisableOomKiller = api.Bool(true) },
		"memory.use_hierarchy":      func(r *api.LinuxResources) { r.Memory.UseHierarchy = api.Bool(true) },
		"blockio_class":             func(r *api.LinuxResources) { r.BlockioClass = api.String("slow") },
		"rdt_class":                 func(r *api.LinuxResources) { r.RdtClass = api.String("gold") },
		"pids":                      func(r *api.LinuxResources) { r.Pids = &api.LinuxPids{Limit: 5} },
		"devices":                   func(r *api.LinuxResources) { r.Devices = []*api.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}} },
		"cpu_period":                func(r *api.LinuxResources) { r.Cpu.Period = api.UInt64(uint64(1 << 63)) },
		"memory_limit_in_bytes":     func(r *api.LinuxResources) { r.Memory.Limit = api.Int64(-7) },
	} {
		r := &api.LinuxResources{Cpu: &api.LinuxCPU{Cpus: "3"}, Memory: &api.LinuxMemory{}}
		set(r)
		u := &api.ContainerUpdate{ContainerId: "box", Linux: &api.LinuxContainerUpdate{Resources: r}}
		if failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{u}); err != nil || len(failed) != 1 {
			t.Errorf("%s, unasked: %v, %v", name, failed, err)
		}
		if name == "pids" || name == "devices" {
			continue // NRI's package leaves them out of answers
		}
		p.update = []*api.ContainerUpdate{u}
		limits := &runtimeapi.LinuxContainerResources{CpuShares: 7}
		if err := a.rt.UpdateContainer(ctx, c, limits); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "refused UpdateContainer") {
			t.Errorf("%s, in an answer: %v", name, err)
		}
		if err := a.rt.CreateContainer(ctx, newContainer(s, "other "+name)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s, in an answer about another: %v", name, err)
		}
	}
	if got := a.limits["box"]; got != nil {
		t.Errorf("the author was told of the limits %v", got)
	}
}

// TestMemory: what a plugin wants of a new container's memory is in its spec.
func TestMemory(t *testing.T) {
	a, socket := served(t)
	p := &plugin{adjust: &api.ContainerAdjustment{}}
	p.adjust.SetLinuxMemoryLimit(4 << 20)
	p.adjust.SetLinuxMemoryReservation(1 << 20)
	p.adjust.SetLinuxMemorySwap(8 << 20)
	p.adjust.SetLinuxMemorySwappiness(10)
	p.adjust.SetLinuxMemoryDisableOomKiller()
	p.adjust.SetLinuxMemoryUseHierarchy() // as it always is
	p.adjust.SetLinuxPidLimits(5)
	p.connect(t, socket)
	s := newSandbox("pod")
	do(t, a.rt.RunSandbox(t.Context(), s), a.rt.CreateContainer(t.Context(), newContainer(s, "box")))
	got := a.specs["box"].Linux.Resources
	limit, reservation, swap, swappiness, disable := int64(4<<20), int64(1<<20), int64(8<<20), uint64(10), true
	want := &specs.LinuxMemory{Limit: &limit, Reservation: &reservation, Swap: &swap, Swappiness: &swappiness, DisableOOMKiller: &disable}
	if diff := cmp.Diff(want, got.Memory); diff != "" {
		t.Errorf("limits of memory (-want +got):\n%s", diff)
	}
	if got.Pids == nil || got.Pids.Limit == nil || *got.Pids.Limit != 5 {
		t.Errorf("the limit of processes is %v", got.Pids)
	}
}

// TestInForce: the container has on record what plugins make of the limits that it was
// asked for with, at its creation and at an update.
func TestInForce(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{adjust: &api.ContainerAdjustment{}}).connect(t, socket)
	ctx := t.Context()
	s := newSandbox("pod")
	asked := &runtimeapi.LinuxContainerResources{CpuShares: 3, MemoryLimitInBytes: 1 << 20, OomScoreAdj: 700}
	create := func(id string) (before, after *runtimeapi.ContainerConfig) {
		t.Helper()
		c := newContainer(s, id)
		c.Config.Linux = &runtimeapi.LinuxContainerConfig{Resources: proto.Clone(asked).(*runtimeapi.LinuxContainerResources)}
		before = c.Config
		do(t, a.rt.CreateContainer(ctx, c))
		return before, c.Config
	}
	do(t, a.rt.RunSandbox(ctx, s))
	if before, after := create("untouched"); before != after {
		t.Errorf("with nothing changed the container has %v", after)
	}
	p.adjust.SetLinuxCPUSetCPUs("1")
	p.adjust.SetLinuxMemoryLimit(2 << 20)
	p.adjust.AddLinuxHugepageLimit("2MB", 2<<20)
	p.adjust.AddLinuxUnified("memory.high", "1048576")
	oom := 0
	p.adjust.SetLinuxOomScoreAdj(&oom)
	before, after := create("box")
	want := &runtimeapi.LinuxContainerResources{
		CpuShares: 3, MemoryLimitInBytes: 2 << 20, CpusetCpus: "1",
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}}, Unified: map[string]string{"memory.high": "1048576"},
	}
	if diff := cmp.Diff(want, after.GetLinux().GetResources(), protocmp.Transform()); diff != "" {
		t.Errorf("limits after the creation (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(asked, before.GetLinux().GetResources(), protocmp.Transform()); diff != "" {
		t.Errorf("what it was asked for with (-want +got):\n%s", diff)
	}
	u := &api.ContainerUpdate{ContainerId: "box"}
	u.SetLinuxCPUSetCPUs("2")
	u.AddLinuxHugepageLimit("2MB", 4<<20)
	p.update = []*api.ContainerUpdate{u}
	limits := &runtimeapi.LinuxContainerResources{CpuShares: 9, OomScoreAdj: 5, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 6 << 20}}}
	do(t, a.rt.UpdateContainer(ctx, newContainer(s, "box"), limits))
	want = &runtimeapi.LinuxContainerResources{CpuShares: 9, OomScoreAdj: 5, CpusetCpus: "2", HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
	for what, got := range map[string]*runtimeapi.LinuxContainerResources{"the caller": limits, "the author": a.limits["box"]} {
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("limits that %s has after the update (-want +got):\n%s", what, diff)
		}
	}
}

// TestChangeRefused: why a change was not begun is told, but for a container that is gone.
func TestChangeRefused(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx := t.Context()
	s := newSandbox("pod")
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, newContainer(s, "box")))
	p.update = []*api.ContainerUpdate{wantsCPUs("box", "1")}
	for i, kind := range []fault.Kind{fault.Unavailable, fault.NotFound, fault.FailedPrecondition} {
		a.rt.Limits(func(context.Context, *cri.Container, *runtimeapi.LinuxContainerResources, func(context.Context, *cri.Container) error) error {
			return kind.Errorf("not now")
		})
		err := a.rt.CreateContainer(ctx, newContainer(s, fmt.Sprint("other", i)))
		if gone := kind != fault.Unavailable; gone != (err == nil) || err != nil && !errors.Is(err, kind) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}

// classOf knows two RDT classes, which mean one group.
func classOf(name string) (*specs.LinuxIntelRdt, error) {
	if name != "gold" && name != "alias" {
		return nil, fmt.Errorf("no class %s", name)
	}
	return &specs.LinuxIntelRdt{ClosID: "gold"}, nil
}

// TestRDT: a group that a plugin names itself is held to the classes, and nothing is
// said of a group for one container.
func TestRDT(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*api.ContainerAdjustment)
		group  string // the container's
		says   string // the error; "" is none
	}{
		"class":           {func(c *api.ContainerAdjustment) { c.SetLinuxRDTClass("gold") }, "gold", ""},
		"group":           {func(c *api.ContainerAdjustment) { c.SetLinuxRDTClosID("gold") }, "gold", ""},
		"no class":        {func(c *api.ContainerAdjustment) { c.SetLinuxRDTClass("host") }, "", "no class host"},
		"no class' group": {func(c *api.ContainerAdjustment) { c.SetLinuxRDTClosID("host") }, "", "no class host"},
		"another's group": {func(c *api.ContainerAdjustment) { c.SetLinuxRDTClosID("alias") }, "", "rdt.clos_id"},
		"none's group":    {func(c *api.ContainerAdjustment) { c.SetLinuxRDTClosID("") }, "", "rdt.clos_id"},
		"schemata":        {func(c *api.ContainerAdjustment) { c.SetLinuxRDTSchemata([]string{"L3:0=1"}) }, "", "rdt.schemata"},
		"monitoring":      {func(c *api.ContainerAdjustment) { c.SetLinuxRDTEnableMonitoring(true) }, "", "rdt.enable_monitoring"},
		"removal":         {func(c *api.ContainerAdjustment) { c.RemoveLinuxRDT() }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, socket := served(t, func(m *nri.Methods) { m.RDT = classOf })
			p := &plugin{adjust: &api.ContainerAdjustment{}}
			tc.change(p.adjust)
			p.connect(t, socket)
			s := newSandbox("pod")
			do(t, a.rt.RunSandbox(t.Context(), s))
			err := a.rt.CreateContainer(t.Context(), newContainer(s, "box"))
			if (err != nil) != (tc.says != "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("the error is %v, want %q", err, tc.says)
			}
			if err != nil {
				return
			}
			var group string
			if rdt := a.specs["box"].Linux.IntelRdt; rdt != nil {
				group = rdt.ClosID
			}
			if group != tc.group {
				t.Errorf("the container is in the group %q, want %q", group, tc.group)
			}
		})
	}
}

// TestTimeout: a plugin that does not answer is disconnected, and the call that it was
// asked in goes on without it, as do all after that.
func TestTimeout(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	a := newAuthor(t, nri.Config{Socket: socket, Timeout: time.Second})
	p := &plugin{hang: "CreateContainer", goOn: make(chan struct{}), adjust: &api.ContainerAdjustment{}}
	p.adjust.AddEnv("LATE", "1")
	do(t, a.rt.Recover(t.Context(), nil, nil))
	p.connect(t, socket)
	defer close(p.goOn)
	if got := p.stub.RequestTimeout(); got != time.Second {
		t.Errorf("the plugin is told that it has %v", got)
	}
	s := newSandbox("pod")
	c := newContainer(s, "box")
	do(t, a.rt.RunSandbox(t.Context(), s), a.rt.CreateContainer(t.Context(), c))
	select {
	case <-p.lost:
	case <-time.After(20 * time.Second):
		t.Fatal("the plugin is still connected")
	}
	if env := a.specs["box"].Process.Env; len(env) != 1 {
		t.Errorf("the container has the environment %q", env)
	}
	do(t, a.rt.StartContainer(t.Context(), c))
}

// TestTimeoutBelowNone is refused.
func TestTimeoutBelowNone(t *testing.T) {
	err := nri.New(nri.Config{Timeout: -1}).Extend(&cri.Runtime{Name: "test", Version: "1"}, nri.Methods{
		Spec: func(*cri.Container) (*specs.Spec, error) { return nil, nil },
	})
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "-1ns") {
		t.Errorf("Extend: %v", err)
	}
}

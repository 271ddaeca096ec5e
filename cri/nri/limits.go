package nri

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// limitsOf converts a plugin's change of limits to the CRI's form. A limit that the CRI
// cannot express is refused, and so is a value that no client may request.
//
// NRI's package (v0.12) itself omits a PID limit and device rules in an answer for
// another container; unsolicited ones get here.
func limitsOf(r *api.LinuxResources) (*runtimeapi.LinuxContainerResources, error) {
	if names := wordless(r); len(names) > 0 {
		return nil, fault.Unimplemented.Errorf("%s cannot be changed after the container's creation: the CRI has no word for it", strings.Join(names, ", "))
	}
	limits := sayable(r)
	return limits, validate.Resources("limits", limits)
}

// replace replaces limits by those that a plugin wants, but for the OOM score adjustment,
// which NRI cannot express.
func replace(limits *runtimeapi.LinuxContainerResources, want *api.ContainerUpdate) error {
	if want == nil {
		return nil
	}
	next, err := limitsOf(want.GetLinux().GetResources())
	if err != nil {
		return err
	}
	next.OomScoreAdj = limits.GetOomScoreAdj()
	proto.Reset(limits)
	proto.Merge(limits, next)
	return nil
}

// wordless names the limits of r that an update in the CRI cannot express.
func wordless(r *api.LinuxResources) (names []string) {
	cpu, memory := r.GetCpu(), r.GetMemory()
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"cpu.realtime_runtime", cpu.GetRealtimeRuntime() != nil},
		{"cpu.realtime_period", cpu.GetRealtimePeriod() != nil},
		{"memory.reservation", memory.GetReservation() != nil},
		{"memory.kernel", memory.GetKernel() != nil},
		{"memory.kernel_tcp", memory.GetKernelTcp() != nil},
		{"memory.swappiness", memory.GetSwappiness() != nil},
		{"memory.disable_oom_killer", memory.GetDisableOomKiller() != nil},
		{"memory.use_hierarchy", memory.GetUseHierarchy() != nil},
		{"pids", r.GetPids() != nil},
		{"devices", len(r.GetDevices()) > 0},
		{"blockio_class", r.GetBlockioClass() != nil},
		{"rdt_class", r.GetRdtClass() != nil},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

// sayable returns the limits that the CRI can express. Of several limits for huge pages
// of one size, it takes the last: NRI's package appends a plugin's to those of the
// request.
func sayable(r *api.LinuxResources) *runtimeapi.LinuxContainerResources {
	cpu, memory := r.GetCpu(), r.GetMemory()
	limits := &runtimeapi.LinuxContainerResources{
		CpuPeriod: int64(cpu.GetPeriod().GetValue()), CpuQuota: cpu.GetQuota().GetValue(), CpuShares: int64(cpu.GetShares().GetValue()),
		CpusetCpus: cpu.GetCpus(), CpusetMems: cpu.GetMems(),
		MemoryLimitInBytes: memory.GetLimit().GetValue(), MemorySwapLimitInBytes: memory.GetSwap().GetValue(),
		Unified: r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		limits.HugepageLimits = slices.DeleteFunc(limits.HugepageLimits, func(old *runtimeapi.HugepageLimit) bool { return old.GetPageSize() == h.GetPageSize() })
		limits.HugepageLimits = append(limits.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return limits
}

// limitsIn returns the limits of a spec.
func limitsIn(doc *specs.Spec) *runtimeapi.LinuxContainerResources {
	limits := &runtimeapi.LinuxContainerResources{}
	if doc.Linux != nil {
		limits = sayable(api.FromOCILinuxResources(doc.Linux.Resources, nil))
	}
	if doc.Process != nil && doc.Process.OOMScoreAdj != nil {
		limits.OomScoreAdj = int64(*doc.Process.OOMScoreAdj)
	}
	return limits
}

// inForce returns the requested config of a container, changed as before became after. If
// nothing changed, it returns asked itself.
func inForce(asked *runtimeapi.ContainerConfig, before, after *runtimeapi.LinuxContainerResources) *runtimeapi.ContainerConfig {
	if proto.Equal(before, after) {
		return asked
	}
	next := proto.Clone(asked).(*runtimeapi.ContainerConfig)
	if next.Linux == nil {
		next.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	if next.Linux.Resources == nil {
		next.Linux.Resources = &runtimeapi.LinuxContainerResources{}
	}
	have, score := next.Linux.Resources, next.Linux.Resources.OomScoreAdj
	if before.OomScoreAdj != after.OomScoreAdj {
		score = after.OomScoreAdj
	}
	have.HugepageLimits = nil // Merge appends to lists
	proto.Merge(have, after)
	have.OomScoreAdj = score // which may be zero, or lower than the runtime could set
	return next
}

// resourcesMessage is the inverse of sayable. Nil stays nil.
func resourcesMessage(l *runtimeapi.LinuxContainerResources) *api.LinuxResources {
	if l == nil {
		return nil
	}
	r := &api.LinuxResources{
		Cpu:    &api.LinuxCPU{Cpus: l.GetCpusetCpus(), Mems: l.GetCpusetMems()},
		Memory: &api.LinuxMemory{}, Unified: maps.Clone(l.GetUnified()), // NRI's package writes to it
	}
	if v := l.GetCpuShares(); v > 0 {
		r.Cpu.Shares = api.UInt64(uint64(v))
	}
	if v := l.GetCpuPeriod(); v > 0 {
		r.Cpu.Period = api.UInt64(uint64(v))
	}
	if v := l.GetCpuQuota(); v != 0 {
		r.Cpu.Quota = api.Int64(v)
	}
	if v := l.GetMemoryLimitInBytes(); v != 0 {
		r.Memory.Limit = api.Int64(v)
	}
	if v := l.GetMemorySwapLimitInBytes(); v != 0 {
		r.Memory.Swap = api.Int64(v)
	}
	for _, h := range l.GetHugepageLimits() {
		r.HugepageLimits = append(r.HugepageLimits, &api.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return r
}

package criconfig

import (
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const (
	cpuPeriod = 100_000 // microseconds
	minShares = 2       // the kernel's least
	minQuota  = 1_000   // microseconds, the kernel's least
)

// resources translates the container's requests and limits.
func (b *Builder) resources(p *v1.Pod, c *v1.Container) *runtimeapi.LinuxContainerResources {
	r := &runtimeapi.LinuxContainerResources{OomScoreAdj: b.oomScore(p, c), CpuShares: minShares}
	request, ok := c.Resources.Requests[v1.ResourceCPU]
	if !ok {
		request = c.Resources.Limits[v1.ResourceCPU]
	}
	r.CpuShares = max(request.MilliValue()*1024/1000, minShares)
	if limit, ok := c.Resources.Limits[v1.ResourceCPU]; ok && limit.Sign() > 0 {
		r.CpuPeriod = cpuPeriod
		r.CpuQuota = max(limit.MilliValue()*cpuPeriod/1000, minQuota)
	}
	if limit, ok := c.Resources.Limits[v1.ResourceMemory]; ok {
		r.MemoryLimitInBytes = limit.Value()
	}
	return r
}

// Update returns what a running instance is told when its resources change: its
// processor and memory. A limit that it had and shall not have is taken away.
func (b *Builder) Update(p *v1.Pod, u *pod.Update) *runtimeapi.LinuxContainerResources {
	all := b.resources(p, &v1.Container{Name: u.Name, Resources: u.To})
	r := &runtimeapi.LinuxContainerResources{
		CpuShares: all.CpuShares, CpuPeriod: all.CpuPeriod, CpuQuota: all.CpuQuota, MemoryLimitInBytes: all.MemoryLimitInBytes,
	}
	if _, had := u.From.Limits[v1.ResourceCPU]; had && r.CpuQuota == 0 {
		r.CpuPeriod, r.CpuQuota = cpuPeriod, -1
	}
	if _, had := u.From.Limits[v1.ResourceMemory]; had && r.MemoryLimitInBytes == 0 {
		r.MemoryLimitInBytes = -1
	}
	return r
}

// oomScore is the kubelet's documented formula: Guaranteed is hardly ever
// killed, BestEffort always first, and a Burstable container the sooner the
// less of the node's memory it asked for.
func (b *Builder) oomScore(p *v1.Pod, c *v1.Container) int64 {
	switch pod.QOS(p) {
	case v1.PodQOSGuaranteed:
		return -997
	case v1.PodQOSBestEffort:
		return 1000
	}
	request := c.Resources.Requests[v1.ResourceMemory]
	if b.node.Memory == 0 {
		return 999
	}
	score := 1000 - 1000*request.Value()/b.node.Memory
	return min(max(score, 3), 999)
}

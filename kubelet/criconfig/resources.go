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
	r := &runtimeapi.LinuxContainerResources{OomScoreAdj: b.oomScore(p, c)}
	r.CpuShares = max(pod.AmountOf(&c.Resources).MilliCPU*1024/1000, minShares)
	if limit, ok := c.Resources.Limits[v1.ResourceCPU]; ok && limit.Sign() > 0 {
		r.CpuPeriod = cpuPeriod
		r.CpuQuota = max(limit.MilliValue()*cpuPeriod/1000, minQuota)
	}
	if limit, ok := c.Resources.Limits[v1.ResourceMemory]; ok {
		r.MemoryLimitInBytes = limit.Value()
	}
	if b.node.GroupOOMKill {
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// Update returns the CPU and memory settings for a running instance whose resources
// change. It removes a limit that the new resources no longer have.
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

// The scores of Pods that the kernel is to spare, and to kill first.
const (
	spared    = -997
	firstToGo = 1000
)

// oomScore is the kubelet's documented formula: Guaranteed Pods are killed last,
// BestEffort ones first, and a Burstable container the earlier the less of the node's
// memory it requested. A sidecar is not killed before the containers that it serves.
func (b *Builder) oomScore(p *v1.Pod, c *v1.Container) int64 {
	switch pod.QOS(p) {
	case v1.PodQOSGuaranteed:
		return spared
	case v1.PodQOSBestEffort:
		return firstToGo
	}
	if b.node.Memory == 0 {
		return firstToGo - 1
	}
	share := unclaimed(p)
	request := memoryRequest(c) + share
	if pod.IsSidecar(c) {
		least := memoryRequest(&p.Spec.Containers[0])
		for i := range p.Spec.Containers {
			least = min(least, memoryRequest(&p.Spec.Containers[i]))
		}
		request = max(request, least+share)
	}
	score := firstToGo - firstToGo*request/b.node.Memory
	return min(max(score, firstToGo+spared), firstToGo-1)
}

func memoryRequest(c *v1.Container) int64 { return pod.AmountOf(&c.Resources).Memory }

// unclaimed returns each container's share of what the Pod itself requests beyond its
// containers.
func unclaimed(p *v1.Pod) int64 {
	if p.Spec.Resources == nil {
		return 0
	}
	bare := *p
	bare.Spec.Resources = nil
	count := int64(len(p.Spec.InitContainers) + len(p.Spec.Containers))
	return max(pod.Requests(p).Memory-pod.Requests(&bare).Memory, 0) / count
}

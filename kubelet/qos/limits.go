package qos

import (
	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// The kernel's limits, in the units of cgroup v1.
const (
	minShares = 2
	maxShares = 1 << 18
	period    = 100_000 // µs
	minQuota  = 1_000   // µs
)

// shares returns the CPU shares for a request in thousandths of a CPU; one CPU has
// 1024. On cgroup v2 internal/cgroup converts them to a weight, by the function of
// github.com/opencontainers/cgroups 0.1, which crun since 1.23 and runc since 1.3.2
// also use: 1024 shares are the default weight, 100. Older OCI runtimes use another.
// That does no harm, because only siblings compete: classes and Pods have their weights
// from here, containers from the runtime.
func shares(milli int64) uint64 {
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

// PodLimits returns the settings of the Pod's cgroup: a weight for its requests, and
// CPU and memory limits where the Pod is bounded as a whole. Where it is not, limits of
// the cgroup are removed. pids is the Pod's maximum number of tasks; zero keeps the
// cgroup's.
func PodLimits(p *v1.Pod, pids int64) cgroup.Limits {
	l := cgroup.Limits{CPUShares: minShares, CPUQuota: -1, CPUPeriod: period, Memory: -1, PIDs: pids, KeepAlive: true}
	if pod.QOS(p) == v1.PodQOSBestEffort {
		return l
	}
	requests, limits := pod.Requests(p), pod.Limits(p)
	l.CPUShares = shares(requests.MilliCPU)
	if pod.Bounded(p, v1.ResourceCPU) {
		l.CPUQuota = max(limits.MilliCPU*period/1000, minQuota)
	}
	if pod.Bounded(p, v1.ResourceMemory) {
		l.Memory = limits.Memory
	}
	return l
}

// unbounded omits the removal of limits, of which a new cgroup has none: while a Pod
// starts, each write counts.
func unbounded(l cgroup.Limits) cgroup.Limits {
	if l.CPUQuota < 0 {
		l.CPUQuota, l.CPUPeriod = 0, 0
	}
	l.Memory = max(l.Memory, 0)
	return l
}

// classShares returns the weight of a class of the Pods that are to run on the node:
// for Burstable that of all its Pods together, for BestEffort the minimum.
func classShares(class v1.PodQOSClass, pods []*v1.Pod) uint64 {
	if class == v1.PodQOSBestEffort {
		return minShares
	}
	var milli int64
	for _, p := range pods {
		if !pod.Terminal(p.Status.Phase) && pod.QOS(p) == class {
			milli += pod.Requests(p).MilliCPU
		}
	}
	return shares(milli)
}

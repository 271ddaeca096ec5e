package criclientsuite

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the container of these rules requests, and what the runtime must be told.
const (
	memoryLimit = int64(64 << 20)
	cpuShares   = int64(256)  // for 250m
	cpuCores    = 0.5         // for 500m
	guaranteed  = int64(-997) // oom_score_adj of a Guaranteed Pod's container
	bestEffort  = int64(1000) // oom_score_adj of a BestEffort Pod's container
)

func resourceRules() []rule {
	return []rule{
		must("CRIC-RES-001", "weighs a container by its request for processor time",
			"LinuxContainerResources.cpu_shares", "CPU shares (relative weight vs. other containers).", asksContainer(limits, func(r *runtimeapi.CreateContainerRequest) error {
				return want("cpu_shares", r.GetConfig().GetLinux().GetResources().GetCpuShares(), cpuShares)
			})),
		must("CRIC-RES-002", "bounds its processor time by its limit",
			"LinuxContainerResources.cpu_quota", "CPU CFS (Completely Fair Scheduler) quota.", asksContainer(limits, func(r *runtimeapi.CreateContainerRequest) error {
				got := r.GetConfig().GetLinux().GetResources()
				if got.GetCpuPeriod() <= 0 || float64(got.GetCpuQuota())/float64(got.GetCpuPeriod()) != cpuCores {
					return fmt.Errorf("cpu_quota is %d in a cpu_period of %d: want half of it", got.GetCpuQuota(), got.GetCpuPeriod())
				}
				return nil
			})),
		must("CRIC-RES-003", "bounds its memory by its limit",
			"LinuxContainerResources.memory_limit_in_bytes", "Memory limit in bytes.", asksContainer(limits, func(r *runtimeapi.CreateContainerRequest) error {
				return want("memory_limit_in_bytes", r.GetConfig().GetLinux().GetResources().GetMemoryLimitInBytes(), memoryLimit)
			})),
		must("CRIC-RES-004", "bounds nothing of a container without limits",
			"LinuxContainerResources.cpu_quota", "Default: 0 (not specified).", asksContainer(nil, func(r *runtimeapi.CreateContainerRequest) error {
				got := r.GetConfig().GetLinux().GetResources()
				if got.GetCpuQuota() > 0 || got.GetMemoryLimitInBytes() > 0 {
					return fmt.Errorf("cpu_quota is %d and memory_limit_in_bytes %d: the container has no limits", got.GetCpuQuota(), got.GetMemoryLimitInBytes())
				}
				return nil
			})),
		must("CRIC-RES-005", "spares containers from the end for memory by the class of their Pod",
			"LinuxContainerResources.oom_score_adj", "OOMScoreAdj adjusts the oom-killer score.", checkScores),
	}
}

func amounts(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

func limits(p *v1.Pod) {
	p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: amounts("250m", "32Mi"), Limits: amounts("500m", "64Mi")}
}

func checkScores(ctx context.Context, l *lab) error {
	score := func(change change) (int64, error) {
		s, err := l.pod(some(change)...)
		if err != nil {
			return 0, err
		}
		req, err := s.container(ctx)
		return req.GetConfig().GetLinux().GetResources().GetOomScoreAdj(), err
	}
	none, err1 := score(nil)
	part, err2 := score(limits)
	all, err3 := score(func(p *v1.Pod) { p.Spec.Containers[0].Resources.Limits = amounts("100m", "32Mi") })
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if part <= all || part >= none {
		return fmt.Errorf("oom_score_adj is %d of a Guaranteed Pod's container, %d of a Burstable one's and %d of a BestEffort one's: want it to grow", all, part, none)
	}
	return errors.Join(want("oom_score_adj of a Guaranteed Pod's container", all, guaranteed), want("that of a BestEffort one's", none, bestEffort))
}

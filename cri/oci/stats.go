package oci

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// stats reads the container's cgroup.
func (r *Runtime) stats(_ context.Context, c *cri.Container) (*runtimeapi.ContainerStats, error) {
	u, err := cgroup.Read(r.cgroupOf(c))
	if err != nil {
		return nil, err
	}
	at := u.At.UnixNano()
	value := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
	memory := &runtimeapi.MemoryUsage{
		Timestamp: at, WorkingSetBytes: value(u.WorkingSet), UsageBytes: value(u.Memory), RssBytes: value(u.RSS),
		PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorFault),
	}
	if u.Limit > 0 {
		memory.AvailableBytes = value(u.Limit - min(u.WorkingSet, u.Limit))
	}
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: c.Config.GetMetadata(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		},
		Cpu:    &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: value(uint64(u.CPU))},
		Memory: memory,
	}, nil
}

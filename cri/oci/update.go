package oci

import (
	"context"
	"encoding/json"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// updateContainer writes new limits to the container's cgroup, all or none. One that
// was not started has no cgroup yet: its spec gets them.
func (r *Runtime) updateContainer(ctx context.Context, c *cri.Container, res *runtimeapi.LinuxContainerResources) error {
	limits, err := limitsOf(res)
	if err != nil {
		return err
	}
	if c.StartedAt.IsZero() {
		return r.updateSpec(c, res)
	}
	if err := cgroup.Set(r.cgroupOf(c), limits); err != nil {
		return err
	}
	// The OCI runtime has read it: it is for who wants to know what the container has.
	if err := r.updateSpec(c, res); err != nil {
		r.cfg.Logger.WarnContext(ctx, "writing a container's new limits into its spec", "container", c.ID, "err", err)
	}
	return nil
}

// updateSpec changes the limits in the container's spec, all or none.
func (r *Runtime) updateSpec(c *cri.Container, res *runtimeapi.LinuxContainerResources) error {
	doc, err := readSpec(r.bundleOf(c))
	if err != nil {
		return err
	}
	spec.Limit(doc, res)
	content, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return atomicfile.Replace(filepath.Join(r.bundleOf(c), "config.json"), content, 0o600)
}

// limitsOf translates the CRI's limits, whose zero fields mean "not set".
func limitsOf(res *runtimeapi.LinuxContainerResources) (cgroup.Limits, error) {
	l := cgroup.Limits{
		CPUShares: uint64(max(res.GetCpuShares(), 0)), CPUQuota: res.GetCpuQuota(), CPUPeriod: uint64(max(res.GetCpuPeriod(), 0)),
		Memory: res.GetMemoryLimitInBytes(), MemorySwap: res.GetMemorySwapLimitInBytes(),
		CPUs: res.GetCpusetCpus(), Mems: res.GetCpusetMems(), Unified: res.GetUnified(),
		Hugepages: map[string]uint64{},
	}
	for _, h := range res.GetHugepageLimits() {
		if _, twice := l.Hugepages[h.GetPageSize()]; twice {
			return l, fault.Invalid.Errorf("two limits for huge pages of %q", h.GetPageSize())
		}
		l.Hugepages[h.GetPageSize()] = h.GetLimit()
	}
	return l, nil
}

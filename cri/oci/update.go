package oci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// updateContainer writes new limits to the container's cgroup. When that fails
// half way the limits that the container had are written again. One that was not
// started has no cgroup yet: its spec gets them.
func (r *Runtime) updateContainer(ctx context.Context, c *cri.Container, res *runtimeapi.LinuxContainerResources) error {
	limits, err := limitsOf(res)
	if err != nil {
		return err
	}
	if c.StartedAt.IsZero() {
		return r.updateSpec(c, res)
	}
	if err := cgroup.Set(r.cgroupOf(c), limits); err != nil {
		return errors.Join(err, r.undoUpdate(c, limits))
	}
	// The OCI runtime has read it: it is for who wants to know what the container has.
	if err := r.updateSpec(c, res); err != nil {
		r.cfg.Logger.WarnContext(ctx, "writing a container's new limits into its spec", "container", c.ID, "err", err)
	}
	return nil
}

// undoUpdate writes the limits of the container's spec, which need not be those that it
// was asked for with (see Config.Adjust), over those of a change.
func (r *Runtime) undoUpdate(c *cri.Container, change cgroup.Limits) error {
	doc, err := readSpec(r.bundleOf(c))
	if err != nil {
		return err
	}
	return cgroup.Set(r.cgroupOf(c), limitsBefore(doc.Linux.Resources, change))
}

// limitsBefore are those of a spec that a change has others for. Of those that there
// were not a quota and limits of memory are taken away again; what has no word for
// "none" in both versions of cgroups stays.
func limitsBefore(have *specs.LinuxResources, change cgroup.Limits) cgroup.Limits {
	before := cgroup.Limits{Hugepages: map[string]uint64{}, Unified: map[string]string{}}
	if have == nil {
		have = &specs.LinuxResources{}
	}
	if c := have.CPU; c != nil {
		before.CPUShares, before.CPUQuota, before.CPUPeriod = orZero(c.Shares), orZero(c.Quota), orZero(c.Period)
		before.CPUs, before.Mems = c.Cpus, c.Mems
	}
	if m := have.Memory; m != nil {
		before.Memory, before.MemorySwap = orZero(m.Limit), orZero(m.Swap)
	}
	for _, h := range have.HugepageLimits {
		if _, changed := change.Hugepages[h.Pagesize]; changed {
			before.Hugepages[h.Pagesize] = h.Limit
		}
	}
	for name := range change.Unified {
		if text, ok := have.Unified[name]; ok {
			before.Unified[name] = text
		}
	}
	for _, l := range []struct{ have, change *int64 }{
		{&before.CPUQuota, &change.CPUQuota},
		{&before.Memory, &change.Memory},
		{&before.MemorySwap, &change.MemorySwap},
	} {
		if *l.change != 0 {
			*l.have = cmp.Or(*l.have, -1)
		}
	}
	return before
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
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

package oci

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// updateContainer writes new limits to the container's cgroup, and a new oom_score_adj to
// its processes, all or none: a kubelet that changes a memory request changes nothing
// else. A container that was not started has neither yet: its spec gets the limits.
func (r *Runtime) updateContainer(ctx context.Context, c *cri.Container, res *runtimeapi.LinuxContainerResources) error {
	limits, err := limitsOf(spec.Resources(res))
	if err != nil {
		return err
	}
	if c.StartedAt.IsZero() {
		return r.updateSpec(c, res)
	}
	if err := r.change(c, limits, res); err != nil {
		return err
	}
	// The OCI runtime has already read the spec: the change only shows what the container
	// has.
	if err := r.updateSpec(c, res); err != nil {
		r.cfg.Logger.WarnContext(ctx, "writing a container's new limits into its spec", "container", c.ID, "err", err)
	}
	return nil
}

// change changes the limits and, if there is a new one, the score of a container that was
// started.
func (r *Runtime) change(c *cri.Container, limits cgroup.Limits, res *runtimeapi.LinuxContainerResources) error {
	cg := r.cgroupOf(c)
	if res.GetOomScoreAdj() == 0 {
		return cgroup.Set(cg, limits)
	}
	putBack, err := rescore(cg, spec.OOMScore(c.Config.GetLinux().GetResources(), r.host), spec.OOMScore(res, r.host))
	if err != nil {
		return err
	}
	if err := cgroup.Set(cg, limits); err != nil {
		return errors.Join(err, putBack())
	}
	return nil
}

// updateSpec changes the limits in the container's spec, all or none.
func (r *Runtime) updateSpec(c *cri.Container, res *runtimeapi.LinuxContainerResources) error {
	doc, err := readSpec(r.bundleOf(c))
	if err != nil {
		return err
	}
	spec.Limit(doc, res, r.host)
	if c.StartedAt.IsZero() {
		if err := fitLimits(doc); err != nil {
			return err
		}
	}
	content, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return atomicfile.Replace(filepath.Join(r.bundleOf(c), "config.json"), content, 0o600)
}

// limitsOf returns the limits of a spec. A zero value means "not set", as in the CRI.
//
// A kubelet sends with each container a limit for each size of huge pages, which is zero
// if the Pod asks for none. Such a container has to run where huge pages cannot be limited,
// too, as it does with other runtimes.
func limitsOf(r *specs.LinuxResources) (cgroup.Limits, error) {
	l := cgroup.Limits{Unified: r.Unified, Hugepages: map[string]uint64{}}
	if c := r.CPU; c != nil {
		l.CPUShares, l.CPUQuota, l.CPUPeriod = orZero(c.Shares), orZero(c.Quota), orZero(c.Period)
		l.CPUs, l.Mems = c.Cpus, c.Mems
	}
	if m := r.Memory; m != nil {
		l.Memory, l.MemorySwap = orZero(m.Limit), orZero(m.Swap)
	}
	for _, h := range r.HugepageLimits {
		if _, twice := l.Hugepages[h.Pagesize]; twice {
			return l, fault.Invalid.Errorf("two limits for huge pages of %q", h.Pagesize)
		}
		l.Hugepages[h.Pagesize] = h.Limit
	}
	if len(l.Hugepages) == 0 {
		return l, nil
	}
	possible, err := cgroup.LimitsHugepages()
	if !possible {
		maps.DeleteFunc(l.Hugepages, func(_ string, limit uint64) bool { return limit == 0 })
	}
	return l, err
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// fitLimits refuses limits that the OCI runtime would refuse only when the container
// starts, and leaves out of the spec those that limitsOf leaves out.
func fitLimits(doc *specs.Spec) error {
	r := doc.Linux.Resources
	if r == nil {
		return nil
	}
	limits, err := limitsOf(r)
	if err != nil {
		return err
	}
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(h specs.LinuxHugepageLimit) bool {
		_, kept := limits.Hugepages[h.Pagesize]
		return !kept
	})
	return limits.Check()
}

package nri

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// synchronize tells a new plugin what is there, and does what it wants changed.
// Nothing is created or started meanwhile.
func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	pods, containers := p.everything()
	var messages []*api.Container
	for _, k := range containers {
		p.mu.Lock()
		c, draft, ended := k.is, k.draft, k.said == stopped
		p.mu.Unlock()
		switch {
		case ended:
		case draft != nil:
			messages = append(messages, draft)
		default:
			messages = append(messages, p.message(c))
		}
	}
	updates, err := tell(ctx, pods, messages)
	if err != nil {
		return err
	}
	return p.applyAll(ctx, updates)
}

func (p *Plugins) everything() (pods []*api.PodSandbox, containers []*container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.pods {
		if !k.stopped {
			pods = append(pods, podMessage(k.is))
		}
	}
	for _, k := range p.containers {
		containers = append(containers, k)
	}
	return pods, containers
}

// unsolicited does what a plugin wants changed without having been asked, and
// returns what could not be.
func (p *Plugins) unsolicited(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	for _, u := range updates {
		if err := p.apply(ctx, u); err != nil {
			p.warn(ctx, "UpdateContainers", u.GetContainerId(), err)
			failed = append(failed, u)
		}
	}
	return failed, nil
}

// errEnded says that a container needs no limits any more.
var errEnded = fault.FailedPrecondition.Errorf("it has ended")

// applyAll makes the changes that plugins answered with. One that may fail is only
// logged when it does.
func (p *Plugins) applyAll(ctx context.Context, updates []*api.ContainerUpdate) error {
	var errs []error
	for _, u := range updates {
		err := p.apply(ctx, u)
		// A plugin may not have heard yet of an end, which is no reason to refuse
		// another container.
		if err != nil && (u.GetIgnoreFailure() || errors.Is(err, errEnded)) {
			p.warn(ctx, "UpdateContainers", u.GetContainerId(), err)
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *Plugins) apply(ctx context.Context, u *api.ContainerUpdate) error {
	id := u.GetContainerId()
	k := p.known(id)
	if k == nil {
		return fault.NotFound.Errorf("an NRI plugin wants other limits for container %q, which is not here", id)
	}
	limits, err := limitsOf(u.GetLinux().GetResources())
	if err != nil {
		return fmt.Errorf("an NRI plugin wants other limits for container %q: %w", id, err)
	}
	if err := p.limit(ctx, k, nil, limits); err != nil {
		return fmt.Errorf("other limits for container %q, which an NRI plugin wants: %w", id, err)
	}
	return nil
}

// limit has the author apply limits to c, or to the container as it is known.
func (p *Plugins) limit(ctx context.Context, k *container, c *cri.Container, limits *runtimeapi.LinuxContainerResources) error {
	if p.author.UpdateContainer == nil {
		return fault.Unimplemented.Errorf("this runtime does not change limits")
	}
	k.change.Lock()
	defer k.change.Unlock()
	if c == nil {
		p.mu.Lock()
		c = k.is
		p.mu.Unlock()
	}
	if c.Exit != nil {
		return errEnded
	}
	return p.author.UpdateContainer(ctx, c, limits)
}

// limitsOf is what the CRI can say of a plugin's limits.
func limitsOf(r *api.LinuxResources) (*runtimeapi.LinuxContainerResources, error) {
	if r.GetBlockioClass() != nil || r.GetRdtClass() != nil {
		return nil, fault.Unimplemented.Errorf("the block I/O and RDT class of a container cannot be changed after its creation")
	}
	limits := &runtimeapi.LinuxContainerResources{
		CpuPeriod: int64(r.GetCpu().GetPeriod().GetValue()), CpuQuota: r.GetCpu().GetQuota().GetValue(), CpuShares: int64(r.GetCpu().GetShares().GetValue()),
		CpusetCpus: r.GetCpu().GetCpus(), CpusetMems: r.GetCpu().GetMems(),
		MemoryLimitInBytes: r.GetMemory().GetLimit().GetValue(), MemorySwapLimitInBytes: r.GetMemory().GetSwap().GetValue(),
		Unified: r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		limits.HugepageLimits = append(limits.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return limits, nil
}

// resourcesMessage is limitsOf the other way round. Nil stays nil.
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

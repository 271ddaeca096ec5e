package crisuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const askedSentence = "These updates can be requested in response to another containers creation request, in response to any containers update request, " +
	"in response to any containers stop request, or they can be requested as part of a separate unsolicited container update request."

func nriUpdateRules() []rule {
	return []rule{
		plugs("CRI-NRI-016", "changes a running container's limits when an NRI plugin asks, and says what it could not change",
			"api.proto, UpdateContainersResponse", "Containers that the runtime failed to update.", checkNRIUnsolicited, Resources, HostProcesses),
		plugs("CRI-NRI-017", "changes the limits of others as an NRI plugin wants that is told of a creation or an end",
			"Container Updates", askedSentence, checkNRIOthers, Resources, HostProcesses),
		plugs("CRI-NRI-018", "changes limits as an NRI plugin wants that is told what is there",
			"Plugin Registration", "The plugin can request updates it considers necessary to any of the known containers in response.", checkNRISynchronizeUpdates, Resources, HostProcesses),
		plugs("CRI-NRI-019", "asks NRI plugins about an update of limits, and does as they say",
			"api.proto, UpdateContainer", "The plugin can alter how the container is updated and request updates to additional containers in the runtime.", checkNRIUpdate, Resources, HostProcesses),
	}
}

// wants returns an update of a container's memory limit.
func wants(id string, memory int64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxMemoryLimit(memory)
	return u
}

// applied waits for a limit that is changed after the answer to another call.
func (b *box) applied(ctx context.Context, memory int64) error {
	return until(ctx, endTime, func() error { return b.hasMemory(ctx, memory) })
}

func checkNRIUnsolicited(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	failed, err := p.asks(ctx, wants(b.id, 80*mib))
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("UpdateContainers of a running container says that it could not change %v", failed)
	}
	if err := errors.Join(b.hasMemory(ctx, 80*mib), b.hasQuota(ctx, "30000")); err != nil {
		return err
	}
	failed, err = p.asks(ctx, wants(unknownID, 80*mib))
	if err == nil && len(failed) != 1 {
		return fmt.Errorf("UpdateContainers of a container that never was says that it could not change %v", failed)
	}
	return nil // an error is just as good
}

// asks bounds the stub's call, which has no timeout of its own.
func (p *plugin) asks(ctx context.Context, u *api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed, err = p.stub.UpdateContainers([]*api.ContainerUpdate{u})
	}()
	select {
	case <-done:
		return failed, err
	case <-time.After(joinTime):
		return nil, fmt.Errorf("UpdateContainers has not been answered within %v", joinTime)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func checkNRIOthers(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	_, err = s.plugin(ctx, wishes{
		create: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			return nil, []*api.ContainerUpdate{wants(b.id, 70*mib)}, nil
		},
		stop: func(c *api.Container) []*api.ContainerUpdate {
			if c.GetId() == b.id {
				return nil
			}
			return []*api.ContainerUpdate{wants(b.id, 90*mib)}
		},
	})
	if err != nil {
		return err
	}
	other, err := b.pod.start(ctx, forever)
	if err != nil {
		return err
	}
	if err := b.applied(ctx, 70*mib); err != nil {
		return fmt.Errorf("behind another's creation: %w", err)
	}
	if err := other.stop(ctx, 0); err != nil {
		return err
	}
	if err := b.applied(ctx, 90*mib); err != nil {
		return fmt.Errorf("behind another's end: %w", err)
	}
	return nil
}

func checkNRISynchronizeUpdates(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	_, err = s.plugin(ctx, wishes{synchronize: func([]*api.Container) []*api.ContainerUpdate {
		return []*api.ContainerUpdate{wants(b.id, 80*mib)}
	}})
	if err != nil {
		return err
	}
	return b.applied(ctx, 80*mib)
}

func checkNRIUpdate(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	other, err := b.pod.start(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 64 * mib }))
	if err != nil {
		return err
	}
	p, err := s.plugin(ctx, wishes{update: func(c *api.Container, _ *api.LinuxResources) []*api.ContainerUpdate {
		return []*api.ContainerUpdate{wants(c.GetId(), 56*mib), wants(other.id, 72*mib)}
	}})
	if err != nil {
		return err
	}
	if err := b.update(ctx, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 * mib, CpuPeriod: fullPeriod, CpuQuota: 45_000}); err != nil {
		return err
	}
	asked, err := p.hears(ctx, "UpdateContainer", b.id)
	if err != nil {
		return err
	}
	if r := asked.limits; r.GetMemory().GetLimit().GetValue() != 96*mib || r.GetCpu().GetQuota().GetValue() != 45_000 {
		return fmt.Errorf("the plugin was asked about the limits %v, want those of the request", r)
	}
	if _, err := p.hears(ctx, "PostUpdateContainer", b.id); err != nil {
		return err
	}
	return errors.Join(b.hasMemory(ctx, 56*mib), b.hasQuota(ctx, "45000"), other.applied(ctx, 72*mib))
}

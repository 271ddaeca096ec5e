package nri

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// synchronize tells a new plugin of all existing sandboxes and containers, and applies
// the changes that it wants. Nothing is created or started meanwhile.
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

// unsolicited applies changes that a plugin requests by itself, and returns those that
// failed.
func (p *Plugins) unsolicited(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	for _, u := range updates {
		if err := p.apply(ctx, u); err != nil {
			p.warn(ctx, "UpdateContainers", u.GetContainerId(), err)
			failed = append(failed, u)
		}
	}
	return failed, nil
}

// errGone says that a container no longer needs limits.
var errGone = fault.NotFound.Errorf("it is not there, or has ended")

// applyAll applies the changes in the plugins' answers. The failure of one that may fail
// is only logged.
func (p *Plugins) applyAll(ctx context.Context, updates []*api.ContainerUpdate) error {
	var errs []error
	for _, u := range updates {
		err := p.apply(ctx, u)
		// A plugin may not know yet that a container has ended, which is no reason to
		// refuse another one.
		if err != nil && (u.GetIgnoreFailure() || errors.Is(err, errGone)) {
			p.warn(ctx, "UpdateContainers", u.GetContainerId(), err)
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// apply applies one change, at once or when it is its turn.
func (p *Plugins) apply(ctx context.Context, u *api.ContainerUpdate) error {
	id := u.GetContainerId()
	limits, err := limitsOf(u.GetLinux().GetResources())
	if err == nil {
		err = p.limit(ctx, id, limits)
	}
	if err != nil {
		return fmt.Errorf("other limits for container %q, which an NRI plugin wants: %w", id, err)
	}
	return nil
}

func (p *Plugins) limit(ctx context.Context, id string, limits *runtimeapi.LinuxContainerResources) error {
	if p.author.UpdateContainer == nil {
		return fault.Unimplemented.Errorf("this runtime does not change limits")
	}
	k := p.known(id)
	if k == nil {
		return errGone
	}
	p.mu.Lock()
	c := k.is
	p.mu.Unlock()
	if c.Exit != nil {
		return errGone
	}
	var called atomic.Bool // may be set at any time, even after ctx has ended
	err := p.change(ctx, c, limits, func(ctx context.Context, c *cri.Container) error {
		called.Store(true)
		return p.author.UpdateContainer(ctx, c, limits)
	})
	if gone := errors.Is(err, cri.ErrNotFound) || errors.Is(err, cri.ErrFailedPrecondition); gone && !called.Load() {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return err
}

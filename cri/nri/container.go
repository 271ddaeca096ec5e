package nri

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// container is a container that plugins know.
type container struct {
	// telling is held from before the program runs until plugins know that it runs, and
	// while they are told of its end, so that an immediate end, and a removal after it,
	// are reported in this order. The author's StopContainer does not wait for it.
	telling sync.Mutex

	// Guarded by Plugins.mu.
	is   *cri.Container
	said stage
	// draft describes the container during its creation: the author has no spec to show
	// yet.
	draft *api.Container
}

// stage is what the plugins have been told of a container.
type stage int

const (
	created stage = iota
	started
	stopped
)

func (p *Plugins) extendContainers(rt *cri.Runtime) {
	rt.CreateContainer = p.createContainer
	rt.StartContainer = p.startContainer
	rt.RemoveContainer = p.removeContainer
	rt.StopContainer = func(ctx context.Context, c *cri.Container, grace time.Duration) error {
		if err := p.author.StopContainer(ctx, c, grace); err != nil {
			return err
		}
		p.ended(ctx, c)
		return nil
	}
	if rt.UpdateContainer != nil {
		rt.UpdateContainer = p.updateContainer
	}
	if rt.Watch != nil {
		rt.Watch = p.watch
	}
	if rt.Checkpoints != nil && rt.Checkpoints.Restore != nil {
		saves := *rt.Checkpoints
		saves.Restore = p.restore
		rt.Checkpoints = &saves
	}
}

// know adds the container to the known ones, or updates it, and returns it.
func (p *Plugins) know(c *cri.Container) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.containers[c.ID]
	if k == nil {
		k = &container{}
		p.containers[c.ID] = k
	}
	dup := *c
	k.is = &dup
	return k
}

// known returns the container, nil if plugins have not been told of it.
func (p *Plugins) known(id string) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers[id]
}

// next moves the container from one stage to the next, and reports whether it was in the
// former.
func (p *Plugins) next(c *cri.Container, from, to stage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.containers[c.ID]
	if k == nil || k.said != from {
		return false
	}
	k.said = to
	return true
}

func (p *Plugins) createContainer(ctx context.Context, c *cri.Container) error {
	if err := p.author.CreateContainer(ctx, c); err != nil {
		return err
	}
	p.made(ctx, c)
	return nil
}

// made tells the plugins of a container that the author has created.
func (p *Plugins) made(ctx context.Context, c *cri.Container) {
	err := p.tell(func() error {
		k := p.know(c)
		p.mu.Lock()
		k.draft = nil
		p.mu.Unlock()
		return p.event(c, func(m *api.Container) error {
			return p.nri.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
		})
	})
	p.warn(ctx, "PostCreateContainer", c.ID, err)
}

// event calls f with the container in NRI's form, if there are any plugins.
func (p *Plugins) event(c *cri.Container, f func(*api.Container) error) error {
	if p.heard.Load() == 0 {
		return nil
	}
	return f(p.message(c))
}

func (p *Plugins) startContainer(ctx context.Context, c *cri.Container) error {
	k := p.know(c)
	err := p.tell(func() error {
		if !p.next(c, created, started) {
			return nil // a second attempt
		}
		return p.event(c, func(m *api.Container) error {
			return p.nri.StartContainer(ctx, &api.StartContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
		})
	})
	if err != nil {
		p.next(c, started, created) // they are asked again
		return refused("StartContainer", err)
	}
	k.telling.Lock()
	defer k.telling.Unlock()
	if err := p.launch(ctx, k, c); err != nil {
		return err
	}
	err = p.tell(func() error {
		return p.event(c, func(m *api.Container) error {
			m.State = api.ContainerState_CONTAINER_RUNNING
			return p.nri.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
		})
	})
	p.warn(ctx, "PostStartContainer", c.ID, err)
	return nil
}

func (p *Plugins) launch(ctx context.Context, k *container, c *cri.Container) error {
	if err := p.author.StartContainer(ctx, c); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	dup := *k.is // may have ended by now
	dup.StartedAt = time.Now()
	k.is = &dup
	return nil
}

// ended tells the plugins, once, of a container that no longer runs.
func (p *Plugins) ended(ctx context.Context, c *cri.Container) {
	if k := p.known(c.ID); k != nil {
		k.telling.Lock()
		defer k.telling.Unlock()
	}
	if p.next(c, created, stopped) {
		return // it never ran, and no plugin was told that it did
	}
	if !p.next(c, started, stopped) {
		return
	}
	var updates []*api.ContainerUpdate
	err := p.tell(func() error {
		return p.event(c, func(m *api.Container) error {
			m.State = api.ContainerState_CONTAINER_STOPPED
			resp, err := p.nri.StopContainer(ctx, &api.StopContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
			updates = resp.GetUpdate()
			return err
		})
	})
	if err == nil {
		err = p.applyAll(ctx, updates)
	}
	p.warn(ctx, "StopContainer", c.ID, err)
}

func (p *Plugins) removeContainer(ctx context.Context, c *cri.Container) error {
	p.ended(ctx, c)
	if p.known(c.ID) == nil { // its creation failed before plugins were asked
		return p.author.RemoveContainer(ctx, c)
	}
	var m *api.Container
	_ = p.event(c, func(seen *api.Container) error { // while its spec still exists
		m = seen
		return nil
	})
	if err := p.author.RemoveContainer(ctx, c); err != nil {
		return err
	}
	err := p.tell(func() error {
		p.mu.Lock()
		delete(p.containers, c.ID)
		p.mu.Unlock()
		if m == nil {
			return nil
		}
		return p.nri.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
	})
	p.warn(ctx, "RemoveContainer", c.ID, err)
	return nil
}

// updateContainer asks the plugins, which may want other limits: limits is changed to
// these.
func (p *Plugins) updateContainer(ctx context.Context, c *cri.Container, limits *runtimeapi.LinuxContainerResources) error {
	p.know(c)
	wanted, err := p.askUpdate(ctx, c, limits)
	if err != nil {
		return refused("UpdateContainer", err)
	}
	if n := len(wanted); n > 0 { // the last is the container's own, nil if no plugin changes it
		if err := replace(limits, wanted[n-1]); err != nil {
			return fmt.Errorf("updating the container as NRI plugins want it: %w", err)
		}
		if err := p.applyAll(ctx, wanted[:n-1]); err != nil {
			return err
		}
	}
	if err := p.author.UpdateContainer(ctx, c, limits); err != nil {
		return err
	}
	err = p.tell(func() error {
		return p.event(c, func(m *api.Container) error {
			return p.nri.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
		})
	})
	p.warn(ctx, "PostUpdateContainer", c.ID, err)
	return nil
}

func (p *Plugins) askUpdate(ctx context.Context, c *cri.Container, limits *runtimeapi.LinuxContainerResources) (wanted []*api.ContainerUpdate, err error) {
	err = p.tell(func() error {
		return p.event(c, func(m *api.Container) error {
			resp, err := p.nri.UpdateContainer(ctx, &api.UpdateContainerRequest{
				Pod: podMessage(c.Sandbox), Container: m, LinuxResources: resourcesMessage(limits),
			})
			wanted = resp.GetUpdate()
			return err
		})
	})
	return wanted, err
}

// watch tells the plugins of ends that nobody requested, after reporting them.
func (p *Plugins) watch(ctx context.Context, report func(string, cri.Exit)) error {
	var telling sync.WaitGroup
	defer telling.Wait()
	return p.author.Watch(ctx, func(id string, e cri.Exit) {
		report(id, e)
		k := p.known(id)
		if k == nil {
			return
		}
		p.mu.Lock()
		dup := *k.is
		dup.Exit = &e
		k.is = &dup
		p.mu.Unlock()
		telling.Go(func() { p.ended(context.WithoutCancel(ctx), &dup) })
	})
}

// restore creates a sandbox together with its containers; see cri.Checkpoints.
func (p *Plugins) restore(ctx context.Context, s *cri.Sandbox, containers []*cri.Container, dir string, options map[string]string) error {
	if err := p.author.Checkpoints.Restore(ctx, s, containers, dir, options); err != nil {
		return err
	}
	if err := p.ran(ctx, s); err != nil {
		return err
	}
	for _, c := range containers {
		p.made(ctx, c)
	}
	return nil
}

// refused returns the error of a call that a plugin rejected.
func refused(event string, err error) error {
	return fault.FailedPrecondition.Wrap(fmt.Errorf("an NRI plugin refused %s: %w", event, err))
}

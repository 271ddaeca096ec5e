package nri

import (
	"context"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// pod is a sandbox that plugins know.
type pod struct {
	is      *cri.Sandbox
	stopped bool // plugins have been told
}

// tell calls the plugins while no plugin can connect: a connecting plugin is told of
// everything that existed before, and then gets everything that follows.
func (p *Plugins) tell(call func() error) error {
	block := p.nri.BlockPluginSync()
	defer block.Unblock()
	return call()
}

// warn logs the error of telling plugins something that has happened anyway.
func (p *Plugins) warn(ctx context.Context, what, id string, err error) {
	if err != nil {
		p.cfg.Logger.WarnContext(ctx, "an NRI plugin failed", "event", what, "id", id, "err", err)
	}
}

func (p *Plugins) extendSandboxes(rt *cri.Runtime) {
	rt.RunSandbox = func(ctx context.Context, s *cri.Sandbox) error {
		if err := p.author.RunSandbox(ctx, s); err != nil {
			return err
		}
		return p.ran(ctx, s)
	}
	rt.StopSandbox = func(ctx context.Context, s *cri.Sandbox) error {
		if err := p.author.StopSandbox(ctx, s); err != nil {
			return err
		}
		p.halted(ctx, s)
		return nil
	}
	rt.RemoveSandbox = func(ctx context.Context, s *cri.Sandbox) error {
		if err := p.author.RemoveSandbox(ctx, s); err != nil {
			return err
		}
		p.forgotten(ctx, s)
		return nil
	}
	if rt.UpdateSandbox != nil {
		rt.UpdateSandbox = p.updateSandbox
	}
}

// knowPod adds the sandbox to the known ones, or updates it, and returns it.
func (p *Plugins) knowPod(s *cri.Sandbox) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.pods[s.ID]
	if k == nil {
		k = &pod{}
		p.pods[s.ID] = k
	}
	dup := *s
	k.is = &dup
	return k
}

// ran tells the plugins, once, of a new sandbox. Its error is a refusal.
func (p *Plugins) ran(ctx context.Context, s *cri.Sandbox) error {
	return p.tell(func() error {
		p.mu.Lock()
		known := p.pods[s.ID]
		p.mu.Unlock()
		if known != nil {
			return nil
		}
		p.knowPod(s)
		if err := p.nri.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: podMessage(s)}); err != nil {
			return refused("RunPodSandbox", err)
		}
		return nil
	})
}

// halted tells the plugins, once, of a stopped sandbox.
func (p *Plugins) halted(ctx context.Context, s *cri.Sandbox) {
	err := p.tell(func() error {
		p.mu.Lock()
		k := p.pods[s.ID]
		first := k != nil && !k.stopped
		if first {
			k.stopped = true
		}
		p.mu.Unlock()
		if !first {
			return nil
		}
		return p.nri.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: podMessage(s)})
	})
	p.warn(ctx, "StopPodSandbox", s.ID, err)
}

// forgotten tells the plugins, once, of a removed sandbox.
func (p *Plugins) forgotten(ctx context.Context, s *cri.Sandbox) {
	err := p.tell(func() error {
		p.mu.Lock()
		known := p.pods[s.ID]
		delete(p.pods, s.ID)
		p.mu.Unlock()
		if known == nil {
			return nil
		}
		return p.nri.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: podMessage(s)})
	})
	p.warn(ctx, "RemovePodSandbox", s.ID, err)
}

func (p *Plugins) updateSandbox(ctx context.Context, s *cri.Sandbox, overhead, resources *runtimeapi.LinuxContainerResources) error {
	err := p.tell(func() error {
		_, err := p.nri.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
			Pod: podMessage(s), OverheadLinuxResources: resourcesMessage(overhead), LinuxResources: resourcesMessage(resources),
		})
		return err
	})
	if err != nil {
		return refused("UpdatePodSandbox", err)
	}
	if err := p.author.UpdateSandbox(ctx, s, overhead, resources); err != nil {
		return err
	}
	err = p.tell(func() error {
		return p.nri.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: podMessage(s)})
	})
	p.warn(ctx, "PostUpdatePodSandbox", s.ID, err)
	return nil
}

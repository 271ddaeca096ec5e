package crisuite

import (
	"context"

	"github.com/containerd/nri/pkg/api"
)

// handler has the methods from which NRI's stub derives the events that a plugin
// subscribes to.
type handler struct{ p *plugin }

func (h handler) pod(event string, pod *api.PodSandbox) bool {
	mine := h.p.mine(pod)
	if mine {
		h.p.note(occasion{event: event, pod: pod})
	}
	return mine
}

func (h handler) box(event string, pod *api.PodSandbox, c *api.Container) bool {
	mine := h.p.mine(pod)
	if mine {
		h.p.note(occasion{event: event, pod: pod, container: c})
	}
	return mine
}

func (h handler) Synchronize(_ context.Context, pods []*api.PodSandbox, all []*api.Container) (updates []*api.ContainerUpdate, _ error) {
	p := h.p
	p.mu.Lock()
	p.pods, p.all = pods, all
	p.mu.Unlock()
	if p.wishes.synchronize != nil {
		updates = p.wishes.synchronize(all)
	}
	p.first.Do(func() { close(p.synced) })
	return updates, nil
}

func (h handler) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	if h.pod("RunPodSandbox", pod) && h.p.wishes.runPod != nil {
		return h.p.wishes.runPod(pod)
	}
	return nil
}

func (h handler) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	h.pod("StopPodSandbox", pod)
	return nil
}

func (h handler) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	h.pod("RemovePodSandbox", pod)
	return nil
}

func (h handler) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if h.box("CreateContainer", pod, c) && h.p.wishes.create != nil {
		return h.p.wishes.create(c)
	}
	return nil, nil, nil
}

func (h handler) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	h.box("PostCreateContainer", pod, c)
	return nil
}

func (h handler) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	if h.box("StartContainer", pod, c) && h.p.wishes.start != nil {
		return h.p.wishes.start(c)
	}
	return nil
}

func (h handler) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	h.box("PostStartContainer", pod, c)
	return nil
}

func (h handler) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, limits *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if !h.p.mine(pod) {
		return nil, nil
	}
	h.p.note(occasion{event: "UpdateContainer", pod: pod, container: c, limits: limits})
	if h.p.wishes.update != nil {
		return h.p.wishes.update(c, limits), nil
	}
	return nil, nil
}

func (h handler) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	h.box("PostUpdateContainer", pod, c)
	return nil
}

func (h handler) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	if h.box("StopContainer", pod, c) && h.p.wishes.stop != nil {
		return h.p.wishes.stop(c), nil
	}
	return nil, nil
}

func (h handler) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	h.box("RemoveContainer", pod, c)
	return nil
}

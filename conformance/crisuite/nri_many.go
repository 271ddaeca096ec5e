package crisuite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func nriManyRules() []rule {
	return []rule{
		plugs("CRI-NRI-020", "asks NRI plugins in the order of their index",
			"Request Errors, Timeouts and Failure Policy", "NRI calls plugins in index order for each lifecycle event.", checkNRIOrder),
		plugs("CRI-NRI-021", "makes no container of which two NRI plugins want different things",
			"Runtime Adaptation", "While combining responses, the package detects any unintentional conflicting changes made by multiple plugins to a single container and flags such an event as an error to the runtime.", checkNRIConflict),
		alone(plugs("CRI-NRI-022", "tells an NRI plugin of every container that is made while it connects",
			"Plugin Registration", fullSentence, checkNRINoneMissed)),
		crash(plugs("CRI-NRI-023", "tells an NRI plugin that connects after a SIGKILL what runs, and what becomes of it",
			"Plugin Registration", fullSentence, nil), checkNRIAfterKill, Survival, Containers, NRI),
		facto("CRI-NRI-024", "shows no Pod as ready, and no container, that an NRI plugin may still refuse",
			"NRI plugins", "What is shown is taken for there: a plugin prepares what a Pod or a container must not be without.", checkNRINotYet, Containers, NRI),
		facto("CRI-NRI-025", "tells NRI plugins of the end of a container that ends at once behind its start, and before its removal",
			"NRI plugins", "A plugin frees at an end what it has prepared at a start.", checkNRIEndsAtOnce, Containers, NRI),
	}
}

// checkNRIOrder connects the plugin that must be asked first after the other one.
func checkNRIOrder(ctx context.Context, s *subject) error {
	second, err := s.plugin(ctx, wishes{index: "90"})
	if err != nil {
		return err
	}
	first, err := s.plugin(ctx, wishes{index: "10"})
	if err != nil {
		return err
	}
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	if err := b.stop(ctx, 0); err != nil {
		return err
	}
	for event, id := range map[string]string{"RunPodSandbox": b.pod.id, "CreateContainer": b.id, "StartContainer": b.id, "StopContainer": b.id} {
		one, err := first.hears(ctx, event, id)
		if err != nil {
			return err
		}
		two, err := second.hears(ctx, event, id)
		if err != nil {
			return err
		}
		if one.turn > two.turn {
			return fmt.Errorf("the plugin with index 90 was told %s before that with index 10", event)
		}
	}
	return nil
}

func checkNRIConflict(ctx context.Context, s *subject) error {
	var quarrel atomic.Bool
	add := func(value string) func(*api.ContainerAdjustment) {
		return func(a *api.ContainerAdjustment) {
			name := added
			if !quarrel.Load() {
				name += "_" + value
			}
			a.AddEnv(name, value)
		}
	}
	for _, value := range []string{"one", "two"} {
		if _, err := s.plugin(ctx, adjusting(add(value))); err != nil {
			return err
		}
	}
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, forever)
	if err != nil {
		return fmt.Errorf("of a container to which two plugins add different variables: %w", err)
	}
	if err := b.remove(ctx); err != nil {
		return err
	}
	quarrel.Store(true)
	if b, err := p.create(ctx, forever); err == nil {
		return fmt.Errorf("CreateContainer made %q, of which two plugins set one variable differently", b.id)
	}
	return p.empty(ctx)
}

const (
	// slowSync bounds how long a plugin waits for slowSyncMade more containers before it
	// answers. It is shorter than any runtime's timeout for plugins.
	slowSync     = 400 * time.Millisecond
	slowSyncMade = 2
	// joining is how many plugins connect while containers are created.
	joining = 2
)

// checkNRINoneMissed keeps creating containers while plugins connect that are slow to
// answer Synchronize. The runtime may delay the containers for that, or not.
func checkNRINoneMissed(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if _, err := p.create(ctx, forever); err != nil { // pulls the image, too
		return err
	}
	crowd := &crowd{pod: p, done: make(chan struct{})}
	go crowd.grow(ctx)
	plugins, err := crowd.join(ctx)
	crowd.enough.Store(true)
	<-crowd.done
	if err := errors.Join(err, crowd.failed); err != nil {
		return err
	}
	for _, p := range plugins {
		if err := p.missedNone(ctx, crowd.all); err != nil {
			return err
		}
	}
	return nil
}

// crowd is a Pod in which one container is created after the other.
type crowd struct {
	pod    *pod
	made   atomic.Int64
	enough atomic.Bool
	done   chan struct{} // closed when all and failed are final
	all    []*box
	failed error
}

func (c *crowd) grow(ctx context.Context) {
	defer close(c.done)
	for !c.enough.Load() {
		b, err := c.pod.create(ctx, forever)
		if err != nil {
			c.failed = err
			return
		}
		c.all = append(c.all, b)
		c.made.Add(1)
	}
}

// join connects the plugins one after the other.
func (c *crowd) join(ctx context.Context) (plugins []*plugin, err error) {
	for range joining {
		p, err := c.pod.s.plugin(ctx, wishes{synchronize: func([]*api.Container) []*api.ContainerUpdate {
			c.wait(ctx)
			return nil
		}})
		if err != nil {
			return nil, err
		}
		plugins = append(plugins, p)
	}
	return plugins, nil
}

func (c *crowd) wait(ctx context.Context) {
	before := c.made.Load()
	_ = until(ctx, slowSync, func() error {
		if c.made.Load() < before+slowSyncMade {
			return errors.New("they wait, or are slow")
		}
		return nil
	})
}

// missedNone returns nil when the plugin was told of all these containers, by Synchronize
// or when they were created.
func (p *plugin) missedNone(ctx context.Context, all []*box) error {
	for _, b := range all {
		if p.known(b.id) != nil {
			continue
		}
		if _, err := p.hears(ctx, "CreateContainer", b.id); err != nil {
			return fmt.Errorf("of a container that was made while the plugin connected: %w", err)
		}
	}
	return nil
}

func checkNRIAfterKill(ctx context.Context, s *subject) error {
	if _, err := s.plugin(ctx, wishes{}); err != nil {
		return err
	}
	b, err := s.watched(ctx, forever)
	if err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if err := p.wasTold(b, api.ContainerState_CONTAINER_RUNNING); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if err := errors.Join(b.stop(ctx, 0), b.remove(ctx)); err != nil {
		return err
	}
	return p.hearsAll(ctx, b.id, "StopContainer", "RemoveContainer")
}

// checkNRINotYet lists Pods and containers before the plugin answers.
func checkNRINotYet(ctx context.Context, s *subject) error {
	shown := make(chan error, 2)
	_, err := s.plugin(ctx, wishes{
		runPod: func(pod *api.PodSandbox) error {
			shown <- s.notReady(ctx, pod.GetId())
			return nil
		},
		create: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			shown <- s.notShown(ctx, c.GetId())
			return nil, nil, nil
		},
	})
	if err != nil {
		return err
	}
	if _, err := s.box(ctx, forever); err != nil {
		return err
	}
	if len(shown) != 2 {
		return fmt.Errorf("the plugin was asked %d times, want once about the Pod and once about its container", len(shown))
	}
	return errors.Join(<-shown, <-shown)
}

func (s *subject) notReady(ctx context.Context, id string) error {
	items, err := s.list(ctx)
	for _, item := range items {
		if item.GetId() == id && item.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			return fmt.Errorf("ListPodSandbox shows Pod %q as ready while the plugin has not answered", id)
		}
	}
	return err
}

func (s *subject) notShown(ctx context.Context, id string) error {
	all, err := s.containers(ctx, nil)
	for _, c := range all {
		if c.GetId() == id {
			return fmt.Errorf("ListContainers shows container %q while the plugin has not answered", id)
		}
	}
	return err
}

// checkNRIEndsAtOnce removes containers as soon as their exit is seen. It tries several,
// because a race does not fail every time.
func checkNRIEndsAtOnce(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	pod, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for range 5 {
		b, err := pod.start(ctx, "exit 0")
		if err != nil {
			return err
		}
		if _, err := b.exited(ctx); err != nil {
			return err
		}
		if err := b.remove(ctx); err != nil {
			return err
		}
		if err := p.hearsLife(ctx, b.id); err != nil {
			return fmt.Errorf("of a container that ended at once: %w", err)
		}
	}
	return nil
}

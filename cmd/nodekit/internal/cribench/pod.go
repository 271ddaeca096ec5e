package cribench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/bench"
)

const (
	// rest is the time between two Pods, as on a node that is not busy.
	rest = 50 * time.Millisecond
	// clients is the number of concurrent clients in the tables of many Pods.
	clients = 10
)

// pod measures one Pod after another.
func (l *lab) pod(ctx context.Context) error {
	return l.measure(ctx, "RunPodSandbox, CreateContainer and StartContainer of one Pod, default seccomp profile; down is StopPodSandbox and RemovePodSandbox",
		l.Rounds, l.one, l.sides)
}

func (l *lab) one(ctx context.Context, s *side) (sample bench.Sample, err error) {
	pod, err := l.admit()
	defer func() { err = errors.Join(err, dismiss(pod)) }()
	if err != nil {
		return sample, err
	}
	time.Sleep(rest)
	sandbox, _, sample, err := l.up(ctx, s, pod)
	if err != nil {
		return sample, err
	}
	time.Sleep(rest)
	down, err := bench.Timed(func() error { return s.down(ctx, sandbox) })
	sample.Steps = append(sample.Steps, bench.Step{Name: "down", Took: down.Total})
	return sample, err
}

// up creates a Pod and starts its container.
func (l *lab) up(ctx context.Context, s *side, pod *runtimeapi.PodSandboxConfig) (sandbox, container string, sample bench.Sample, err error) {
	step := func(name string, f func() error) {
		if err != nil {
			return
		}
		var took bench.Sample
		took, err = bench.Timed(f)
		sample.Total += took.Total
		sample.Steps = append(sample.Steps, bench.Step{Name: name, Took: took.Total})
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	step("RunPodSandbox", func() error {
		r, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod, RuntimeHandler: s.handler})
		sandbox = r.GetPodSandboxId()
		return err
	})
	step("CreateContainer", func() error {
		r, err := s.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: l.container(pod), SandboxConfig: pod})
		container = r.GetContainerId()
		return err
	})
	step("StartContainer", func() error {
		_, err := s.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: container})
		return err
	})
	return sandbox, container, sample, err
}

func (s *side) down(ctx context.Context, sandbox string) error {
	if _, err := s.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	return nil
}

// crowd measures many Pods at once.
func (l *lab) crowd(ctx context.Context) error {
	title := fmt.Sprintf("%d Pods from %d clients at once, until the last container is started; down is StopPodSandbox and RemovePodSandbox of all", l.Pods, clients)
	return l.measure(ctx, title, max(1, l.Rounds/5), l.many, l.sides)
}

// many starts and removes many Pods on a machine that has nothing else to do.
func (l *lab) many(ctx context.Context, s *side) (sample bench.Sample, err error) {
	pods, err := l.crowdOf(l.Pods)
	defer func() { err = errors.Join(err, dismiss(pods...)) }()
	if err == nil {
		err = quiet(ctx)
	}
	if err != nil {
		return sample, err
	}
	var sandboxes []string
	sample, err = bench.Timed(func() (err error) {
		sandboxes, err = l.start(ctx, s, pods)
		return err
	})
	time.Sleep(rest)
	down, downErr := bench.Timed(func() error { return s.stop(ctx, sandboxes) })
	sample.Steps = append(sample.Steps, bench.Step{Name: "down", Took: down.Total})
	return sample, errors.Join(err, downErr)
}

// start creates the Pods and returns their sandboxes, including those of a start that
// failed halfway.
func (l *lab) start(ctx context.Context, s *side, pods []*runtimeapi.PodSandboxConfig) (sandboxes []string, err error) {
	var mu sync.Mutex
	err = each(pods, func(p *runtimeapi.PodSandboxConfig) error {
		sandbox, _, _, err := l.up(ctx, s, p)
		mu.Lock()
		defer mu.Unlock()
		if sandbox != "" {
			sandboxes = append(sandboxes, sandbox)
		}
		return err
	})
	return sandboxes, err
}

// stop removes the sandboxes.
func (s *side) stop(ctx context.Context, sandboxes []string) error {
	return each(sandboxes, func(id string) error { return s.down(ctx, id) })
}

// each calls do for each, as many at a time as there are clients.
func each[T any](all []T, do func(T) error) error {
	var g errgroup.Group
	g.SetLimit(clients)
	for _, one := range all {
		g.Go(func() error { return do(one) })
	}
	return g.Wait()
}

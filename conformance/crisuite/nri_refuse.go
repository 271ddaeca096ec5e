package crisuite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func nriRefusalRules() []rule {
	return []rule{
		plugs("CRI-NRI-013", "makes no container that an NRI plugin refuses, and leaves nothing of it",
			"Request Errors, Timeouts and Failure Policy", failSentence, checkNRIRefusedCreate),
		plugs("CRI-NRI-014", "runs no Pod that an NRI plugin refuses, and leaves nothing of it",
			"Request Errors, Timeouts and Failure Policy", failSentence, checkNRIRefusedPod),
		plugs("CRI-NRI-015", "starts no container whose start an NRI plugin refuses",
			"Request Errors, Timeouts and Failure Policy", failSentence, checkNRIRefusedStart),
	}
}

var errRefused = errors.New("the suite's plugin does not want it")

// checkNRIRefusedCreate creates the container once the plugin no longer refuses it, which
// shows that the refusal was the plugin's. A runtime may require a new attempt number for
// that.
func checkNRIRefusedCreate(ctx context.Context, s *subject) error {
	var willing atomic.Bool
	_, err := s.plugin(ctx, wishes{create: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		if willing.Load() {
			return nil, nil, nil
		}
		return nil, nil, errRefused
	}})
	if err != nil {
		return err
	}
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	config, err := p.describe(ctx, forever)
	if err != nil {
		return err
	}
	if b, err := p.createAs(ctx, config); err == nil {
		return fmt.Errorf("CreateContainer, which the plugin refuses, made %q", b.id)
	}
	if err := p.empty(ctx); err != nil {
		return err
	}
	willing.Store(true)
	b, err := p.createAs(ctx, config)
	if err != nil {
		config.Metadata.Attempt++
		b, err = p.createAs(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("of a container that the plugin does not refuse any more: %w", err)
	}
	return b.start(ctx)
}

// empty returns nil when the Pod has no containers.
func (p *pod) empty(ctx context.Context) error {
	all, err := p.s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err == nil && len(all) > 0 {
		return fmt.Errorf("behind a CreateContainer that failed there are %v", all)
	}
	return err
}

func checkNRIRefusedPod(ctx context.Context, s *subject) error {
	var willing atomic.Bool
	_, err := s.plugin(ctx, wishes{runPod: func(*api.PodSandbox) error {
		if willing.Load() {
			return nil
		}
		return errRefused
	}})
	if err != nil {
		return err
	}
	config := s.sandbox("refused")
	if id, err := s.run(ctx, config); err == nil {
		return fmt.Errorf("RunPodSandbox, which the plugin refuses, made %q", id)
	}
	left, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("behind a RunPodSandbox that failed there are %v", left)
	}
	willing.Store(true)
	if _, err = s.run(ctx, config); err != nil {
		config.Metadata.Attempt++
		_, err = s.run(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("of a Pod that the plugin does not refuse any more: %w", err)
	}
	return nil
}

// checkNRIRefusedStart accepts any state of such a container afterwards except running.
func checkNRIRefusedStart(ctx context.Context, s *subject) error {
	if _, err := s.plugin(ctx, wishes{start: func(*api.Container) error { return errRefused }}); err != nil {
		return err
	}
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, forever)
	if err != nil {
		return err
	}
	if err := b.start(ctx); err == nil {
		return errors.New("StartContainer, which the plugin refuses, succeeded")
	}
	if b.in(ctx, runtimeapi.ContainerState_CONTAINER_RUNNING) == nil {
		return errors.New("the container runs, and the plugin has refused its start")
	}
	return nil
}

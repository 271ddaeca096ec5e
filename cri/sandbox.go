package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
)

// RunPodSandbox creates a sandbox, joins a creation in flight, or returns the ready
// sandbox with the same Pod uid and attempt.
func (s *server) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if s.rt.RunSandbox == nil {
		return nil, unimplemented("RunPodSandbox")
	}
	if err := validate.Sandbox(req.GetConfig()); err != nil {
		return nil, err
	}
	h, err := s.rt.handler(req.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	if err := s.rt.refuseSandbox(h, req.GetConfig()); err != nil {
		return nil, err
	}
	meta := req.GetConfig().GetMetadata()
	id, err := s.calls.Join(ctx, fmt.Sprintf("sandbox/%s/%d", meta.GetUid(), meta.GetAttempt()), func(ctx context.Context) (string, error) {
		if have := s.table.ByPod(meta); have != nil {
			return adoptSandbox(have.Now(), meta)
		}
		return s.runSandbox(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// adoptSandbox answers a repeated RunPodSandbox.
func adoptSandbox(have *record.Sandbox, meta *runtimeapi.PodSandboxMetadata) (string, error) {
	m := have.Config.GetMetadata()
	same := m.GetName() == meta.GetName() && m.GetNamespace() == meta.GetNamespace()
	if !same || !have.Ready {
		return "", ErrAlreadyExists.Errorf("pod %q uid %q attempt %d: sandbox %q has this uid and attempt and is not a ready sandbox of this pod",
			meta.GetNamespace()+"/"+meta.GetName(), meta.GetUid(), meta.GetAttempt(), have.ID)
	}
	return have.ID, nil
}

func (s *server) runSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (id string, err error) {
	sb := s.newSandbox(req.GetConfig(), req.GetRuntimeHandler())
	ctx = podContext(ctx, sb.record())
	defer func() {
		if err != nil {
			err = undone(err, s.rollbackSandbox(ctx, sb))
		}
	}()
	if err := s.table.IntendSandbox(sb.record()); err != nil {
		return "", err
	}
	if err := os.Mkdir(sb.Dir, 0o700); err != nil {
		return "", fmt.Errorf("making the sandbox's directory: %w", err)
	}
	if err := s.hand("RunSandbox", func() error { return s.rt.RunSandbox(ctx, sb) }, sb); err != nil {
		return "", err
	}
	made := sb.record()
	made.Ready = true
	if err := s.table.AddSandbox(made); err != nil {
		return "", err
	}
	s.log.InfoContext(ctx, "sandbox ready", "sandbox", sb.ID, "pod", podName(sb.Config), "ips", sb.IPs)
	return sb.ID, nil
}

// rollbackSandbox undoes a failed creation. If that fails as well, the sandbox becomes
// visible as not ready: the kubelet's garbage collection then tries again, and nothing is
// leaked.
func (s *server) rollbackSandbox(ctx context.Context, sb *Sandbox) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	sb.Ready = false
	err := s.hand("StopSandbox", func() error { return s.rt.StopSandbox(ctx, sb) }, sb)
	if err == nil {
		err = s.hand("RemoveSandbox", func() error { return s.rt.RemoveSandbox(ctx, sb) }, sb)
	}
	if err == nil {
		err = s.table.ForgetSandbox(sb.ID)
	}
	if err == nil {
		return nil
	}
	s.table.KeepSandbox(sb.record())
	return fmt.Errorf("undoing the creation of sandbox %q: %w", sb.ID, err)
}

// StopPodSandbox kills the containers and releases the network. It succeeds if the
// sandbox is unknown or already stopped.
func (s *server) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := s.end(ctx, req.GetPodSandboxId(), s.stopSandbox); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes the sandbox with its containers. It succeeds if the sandbox is
// unknown.
func (s *server) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := s.end(ctx, req.GetPodSandboxId(), s.removeSandbox); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// end hastens every stop that holds the sandbox's gate, passes the gate, and calls do,
// which ends the sandbox, if there is one.
func (s *server) end(ctx context.Context, id string, do func(context.Context, *state.Sandbox) error) error {
	sb, err := s.table.Sandbox(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sb.Saving.Break(errStopped)()
	now := time.Now()
	for _, c := range s.table.ContainersOf(sb) {
		c.Deadline.Hasten(now)
		defer c.Starting.Break(errStopped)()
	}
	return s.alone(ctx, sb, func(ctx context.Context) error { return do(ctx, sb) })
}

// stopSandbox requires the gate to be held alone, as do those below.
func (s *server) stopSandbox(ctx context.Context, sb *state.Sandbox) error {
	if err := s.killContainers(ctx, sb); err != nil {
		return err
	}
	next := viewSandbox(sb.Copy())
	if err := s.hand("StopSandbox", func() error { return s.rt.StopSandbox(ctx, next) }, next); err != nil {
		return fmt.Errorf("stopping sandbox %q: %w", next.ID, err)
	}
	changed, err := s.table.StopSandbox(sb, next.record())
	if changed {
		s.log.InfoContext(ctx, "sandbox stopped", "sandbox", next.ID, "pod", podName(next.Config))
	}
	return err
}

// killContainers kills all containers concurrently.
func (s *server) killContainers(ctx context.Context, sb *state.Sandbox) error {
	var g errgroup.Group
	for _, c := range s.table.ContainersOf(sb) {
		g.Go(func() error { return s.stopUntil(ctx, c, time.Now()) })
	}
	return g.Wait()
}

func (s *server) removeSandbox(ctx context.Context, sb *state.Sandbox) error {
	id := sb.Now().ID
	if _, err := s.table.Sandbox(id); errors.Is(err, ErrNotFound) {
		return nil // removed while this call waited
	}
	if !sb.Stopped() { // once is enough: nothing starts in a stopped sandbox
		if err := s.stopSandbox(ctx, sb); err != nil {
			return err
		}
	}
	for _, c := range s.table.ContainersOf(sb) {
		if err := s.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := s.table.IntendSandboxRemoval(sb); err != nil {
		return err
	}
	if err := s.guard("RemoveSandbox", func() error { return s.rt.RemoveSandbox(ctx, viewSandbox(sb.Copy())) }); err != nil {
		return fmt.Errorf("removing sandbox %q: %w", id, err)
	}
	if err := s.table.RemoveSandbox(sb); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "sandbox removed", "sandbox", id, "pod", podName(sb.Now().Config))
	return nil
}

func podName(c *runtimeapi.PodSandboxConfig) string {
	return c.GetMetadata().GetNamespace() + "/" + c.GetMetadata().GetName()
}

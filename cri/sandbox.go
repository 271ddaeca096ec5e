package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPodSandbox creates a sandbox, joins a creation in flight, or returns the
// ready sandbox of the same Pod uid and attempt.
func (s *server) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if s.rt.RunSandbox == nil {
		return nil, unimplemented("RunPodSandbox")
	}
	if err := validateSandbox(req.GetConfig()); err != nil {
		return nil, err
	}
	if h := req.GetRuntimeHandler(); h != "" && !slices.Contains(s.rt.Handlers, h) {
		return nil, ErrInvalid.Errorf("runtime handler %q: unknown, this runtime has %q", h, s.rt.Handlers)
	}
	meta := req.GetConfig().GetMetadata()
	id, err := s.fly(ctx, fmt.Sprintf("sandbox/%s/%d", meta.GetUid(), meta.GetAttempt()), func(ctx context.Context) (string, error) {
		if have := s.index.byPod(meta); have != nil {
			return adoptSandbox(have.cur.Load(), meta)
		}
		return s.runSandbox(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// adoptSandbox answers a repeated RunPodSandbox.
func adoptSandbox(have *Sandbox, meta *runtimeapi.PodSandboxMetadata) (string, error) {
	m := have.Config.GetMetadata()
	same := m.GetName() == meta.GetName() && m.GetNamespace() == meta.GetNamespace()
	if !same || !have.Ready {
		return "", ErrAlreadyExists.Errorf("pod %q uid %q attempt %d: sandbox %q has this uid and attempt and is not a ready sandbox of this pod",
			meta.GetNamespace()+"/"+meta.GetName(), meta.GetUid(), meta.GetAttempt(), have.ID)
	}
	return have.ID, nil
}

func (s *server) runSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (id string, err error) {
	sb := &Sandbox{ID: newID(), Config: req.GetConfig(), Handler: req.GetRuntimeHandler(), CreatedAt: time.Now()}
	sb.Dir = s.records.home(sb.ID)
	ctx = podContext(ctx, sb)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.rollbackSandbox(ctx, sb))
		}
	}()
	if err := s.records.putSandbox(sb, creating); err != nil {
		return "", err
	}
	if err := os.Mkdir(sb.Dir, 0o700); err != nil {
		return "", fmt.Errorf("making the sandbox's directory: %w", err)
	}
	if err := s.guard("RunSandbox", func() error { return s.rt.RunSandbox(ctx, sb) }); err != nil {
		return "", err
	}
	sb.Ready = true
	if err := s.records.putSandbox(sb, live); err != nil {
		return "", err
	}
	m := newSandbox(sb)
	s.publish(m, sb.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { s.index.sandboxes[sb.ID] = m })
	s.publish(m, sb.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, func() {})
	s.log.InfoContext(ctx, "sandbox ready", "sandbox", sb.ID, "pod", sb.podName(), "ips", sb.IPs)
	return sb.ID, nil
}

// rollbackSandbox undoes a creation that failed. When that fails, too, the
// sandbox becomes visible as one that is not ready: the kubelet's garbage
// collection then tries again, and nothing is forgotten.
func (s *server) rollbackSandbox(ctx context.Context, sb *Sandbox) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	sb.Ready = false
	err := s.guard("StopSandbox", func() error { return s.rt.StopSandbox(ctx, sb) })
	if err == nil {
		err = s.guard("RemoveSandbox", func() error { return s.rt.RemoveSandbox(ctx, sb) })
	}
	if err == nil {
		err = s.records.removeSandbox(sb.ID)
	}
	if err == nil {
		return nil
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	s.index.sandboxes[sb.ID] = newSandbox(sb)
	return fmt.Errorf("undoing the creation of sandbox %q: %w", sb.ID, err)
}

// StopPodSandbox kills the containers and frees the network. It succeeds for
// an unknown sandbox and for a stopped one.
func (s *server) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	sb, err := s.index.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb != nil {
		err = s.alone(ctx, sb, func(ctx context.Context) error { return s.stopSandbox(ctx, sb) })
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// alone passes the sandbox's gate, hastening every stop that holds it, and
// runs f detached from the client.
func (s *server) alone(client context.Context, sb *sandbox, f func(context.Context) error) error {
	now := time.Now()
	for _, c := range s.index.containersOf(sb) {
		c.hasten(now)
	}
	return s.exclusive(client, sb, f)
}

// exclusive passes the sandbox's gate and runs f detached from the client.
func (s *server) exclusive(client context.Context, sb *sandbox, f func(context.Context) error) error {
	if err := sb.gate.Acquire(client, everybody); err != nil {
		return err
	}
	return s.detach(client, func(ctx context.Context) error {
		defer sb.gate.Release(everybody)
		return f(podContext(ctx, sb.cur.Load()))
	})
}

func (s *server) stopSandbox(ctx context.Context, sb *sandbox) error {
	if err := s.killContainers(ctx, sb); err != nil {
		return err
	}
	next := sb.copy()
	if err := s.guard("StopSandbox", func() error { return s.rt.StopSandbox(ctx, next) }); err != nil {
		return fmt.Errorf("stopping sandbox %q: %w", next.ID, err)
	}
	was := sb.cur.Load()
	next.Ready = false
	if !was.Ready && string(was.State) == string(next.State) && slices.Equal(was.IPs, next.IPs) {
		return nil
	}
	if err := s.records.putSandbox(next, live); err != nil {
		return err
	}
	s.publish(sb, next.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, func() { sb.cur.Store(next) })
	s.log.InfoContext(ctx, "sandbox stopped", "sandbox", next.ID, "pod", next.podName())
	return nil
}

// killContainers ends all containers at once. It wants the gate.
func (s *server) killContainers(ctx context.Context, sb *sandbox) error {
	var g errgroup.Group
	for _, c := range s.index.containersOf(sb) {
		g.Go(func() error { return s.stopUntil(ctx, c, time.Now()) })
	}
	return g.Wait()
}

// RemovePodSandbox removes the sandbox with its containers. It succeeds for an
// unknown one.
func (s *server) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	sb, err := s.index.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb != nil {
		err = s.alone(ctx, sb, func(ctx context.Context) error { return s.removeSandbox(ctx, sb) })
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (s *server) removeSandbox(ctx context.Context, sb *sandbox) error {
	if gone, err := s.index.sandbox(sb.cur.Load().ID); gone == nil {
		return err // removed while this call waited
	}
	if err := s.stopSandbox(ctx, sb); err != nil {
		return err
	}
	for _, c := range s.index.containersOf(sb) {
		if err := s.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	last := sb.copy()
	if err := s.records.putSandbox(last, removing); err != nil {
		return err
	}
	if err := s.guard("RemoveSandbox", func() error { return s.rt.RemoveSandbox(ctx, last) }); err != nil {
		return fmt.Errorf("removing sandbox %q: %w", last.ID, err)
	}
	if err := s.records.removeSandbox(last.ID); err != nil {
		return err
	}
	s.publish(sb, last.ID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, func() { delete(s.index.sandboxes, last.ID) })
	s.log.InfoContext(ctx, "sandbox removed", "sandbox", last.ID, "pod", last.podName())
	return nil
}

func (s *Sandbox) podName() string {
	m := s.Config.GetMetadata()
	return m.GetNamespace() + "/" + m.GetName()
}

package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer creates a container, joins a creation in flight, or returns
// the created container of the same name and attempt.
func (s *server) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if s.rt.CreateContainer == nil {
		return nil, unimplemented("CreateContainer")
	}
	if err := validateContainer(req.GetConfig()); err != nil {
		return nil, err
	}
	sb, err := s.index.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb == nil {
		return nil, ErrNotFound.Errorf("sandbox %q: not found", req.GetPodSandboxId())
	}
	meta := req.GetConfig().GetMetadata()
	key := fmt.Sprintf("container/%s/%s/%d", sb.cur.Load().ID, meta.GetName(), meta.GetAttempt())
	id, err := s.fly(ctx, key, func(ctx context.Context) (string, error) {
		if err := sb.gate.Acquire(ctx, everybody); err != nil {
			return "", err
		}
		defer sb.gate.Release(everybody)
		if have := s.index.byName(sb, meta); have != nil {
			return adoptContainer(have.cur.Load())
		}
		return s.createContainer(podContext(ctx, sb.cur.Load()), sb, req.GetConfig())
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// adoptContainer answers a repeated CreateContainer.
func adoptContainer(have *Container) (string, error) {
	if have.state() != runtimeapi.ContainerState_CONTAINER_CREATED {
		m := have.Config.GetMetadata()
		return "", ErrAlreadyExists.Errorf("container %q attempt %d: container %q has this name and attempt and was started", m.GetName(), m.GetAttempt(), have.ID)
	}
	return have.ID, nil
}

func (s *server) createContainer(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig) (id string, err error) {
	if !sb.cur.Load().Ready {
		return "", ErrFailedPrecondition.Errorf("sandbox %q: it is stopped", sb.cur.Load().ID)
	}
	c := &Container{ID: newID(), Sandbox: sb.copy(), Config: config, CreatedAt: time.Now()}
	c.Dir, c.LogPath = s.records.home(c.ID), logPath(c.Sandbox.Config, config)
	if c.ImageRef, err = s.imageRef(ctx, config.GetImage().GetImage()); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.rollbackContainer(ctx, sb, c))
		}
	}()
	if err := s.records.putContainer(c, creating); err != nil {
		return "", err
	}
	if err := makeContainerDirs(c); err != nil {
		return "", err
	}
	if err := s.guard("CreateContainer", func() error { return s.rt.CreateContainer(ctx, c) }); err != nil {
		return "", err
	}
	if err := s.records.putContainer(c, live); err != nil {
		return "", err
	}
	m := newContainer(sb, c)
	s.publish(sb, c.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { s.add(m) })
	s.log.InfoContext(ctx, "container created", "container", c.ID, "name", config.GetMetadata().GetName(), "sandbox", c.Sandbox.ID)
	return c.ID, nil
}

func makeContainerDirs(c *Container) error {
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		return fmt.Errorf("making the container's directory: %w", err)
	}
	if c.LogPath == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
		return fmt.Errorf("making the log directory: %w", err)
	}
	return nil
}

// add wants the index locked.
func (s *server) add(c *container) {
	id := c.cur.Load().ID
	s.index.containers[id], c.sandbox.containers[id] = c, c
}

// imageRef resolves the image, so that every container reports the image's id.
func (s *server) imageRef(ctx context.Context, ref string) (string, error) {
	if s.rt.Images == nil || s.rt.Images.Status == nil {
		return ref, nil
	}
	image, err := s.rt.Images.Status(ctx, ref)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", fmt.Errorf("looking up image %q: %w", ref, err)
	}
	if image == nil {
		return "", ErrNotFound.Errorf("image %q: not present, pull it first", ref)
	}
	return image.GetId(), nil
}

// rollbackContainer undoes a creation that failed. When that fails, too, the
// container becomes visible as an ended one, which the kubelet removes.
func (s *server) rollbackContainer(ctx context.Context, sb *sandbox, c *Container) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	err := s.guard("RemoveContainer", func() error { return s.rt.RemoveContainer(ctx, c) })
	if err == nil {
		err = s.records.removeContainer(c.ID)
	}
	if err == nil {
		return nil
	}
	c.Exit = Exit{Code: 128, Reason: "Error", Message: "its creation failed and could not be undone"}.normal()
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	s.add(newContainer(sb, c))
	return fmt.Errorf("undoing the creation of container %q: %w", c.ID, err)
}

// StartContainer starts a created container. A repeated start of a running one
// succeeds.
func (s *server) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.mustContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = s.exclusive(ctx, c.sandbox, func(ctx context.Context) error { return s.startContainer(ctx, c) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func (s *server) startContainer(ctx context.Context, c *container) error {
	cur := c.cur.Load()
	switch {
	case cur.Running():
		return nil
	case cur.Exit != nil:
		return ErrFailedPrecondition.Errorf("container %q: it has ended", cur.ID)
	case !c.sandbox.cur.Load().Ready:
		return ErrFailedPrecondition.Errorf("sandbox %q: it is stopped", cur.Sandbox.ID)
	}
	next, started := c.copy(), time.Now()
	if err := s.intendStart(c, *next, started); err != nil {
		return err
	}
	err := s.guard("StartContainer", func() error { return s.rt.StartContainer(ctx, next) })
	if err != nil {
		return errors.Join(fmt.Errorf("starting container %q: %w", cur.ID, err), s.startFailed(ctx, c, err))
	}
	next.StartedAt = started
	s.started(c, cur, next)
	s.log.InfoContext(ctx, "container started", "container", cur.ID, "name", cur.Config.GetMetadata().GetName(), "sandbox", cur.Sandbox.ID)
	return nil
}

// intendStart writes the record of a running container before it runs: a
// killed server finds it, and Recover says what became of it. Exits that are
// reported from here on wait until the start is published.
func (s *server) intendStart(c *container, next Container, started time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next.StartedAt = started
	if err := s.records.putContainer(&next, live); err != nil {
		return err
	}
	c.starting = true
	return nil
}

// started publishes the running container and then an exit that came early.
func (s *server) started(c *container, was, next *Container) {
	exit := next.Exit
	next.Exit = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := string(was.State) != string(next.State) || was.ImageRef != next.ImageRef || was.LogPath != next.LogPath
	if changed {
		s.logged(s.base, "writing the record of a started container", s.records.putContainer(next, live), "container", next.ID)
	}
	s.publish(c.sandbox, next.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, func() { c.cur.Store(next) })
	c.starting = false
	if exit == nil {
		exit = c.early
	}
	if exit != nil {
		s.commitExit(c, *exit)
	}
}

// startFailed makes sure that nothing runs and records the container as ended,
// which the kubelet answers with a new attempt.
func (s *server) startFailed(ctx context.Context, c *container, cause error) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	next := c.copy()
	err := s.guard("StopContainer", func() error { return s.rt.StopContainer(ctx, next, 0) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starting = false
	s.commitExit(c, Exit{Code: 128, Reason: "StartError", Message: cause.Error()})
	if err != nil {
		return fmt.Errorf("stopping what was started: %w", err)
	}
	return nil
}

// ended is what Watch reports exits to.
func (s *server) ended(id string, e Exit) {
	s.index.mu.RLock()
	c := s.index.containers[id]
	s.index.mu.RUnlock()
	if c == nil {
		s.log.Debug("exit of an unknown container", "container", id)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.starting {
		c.early = &e
		return
	}
	s.commitExit(c, e)
}

// commitExit persists and then publishes the end of a container; the first
// report counts. It wants c.mu.
func (s *server) commitExit(c *container, e Exit) {
	next := *c.cur.Load()
	if next.Exit != nil {
		return
	}
	next.Exit = e.normal()
	err := s.records.putContainer(&next, live)
	s.logged(s.base, "writing the exit of a container", err, "container", next.ID)
	s.publish(c.sandbox, next.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, func() { c.cur.Store(&next) })
	close(c.ended)
	s.log.Info("container ended", "container", next.ID, "name", next.Config.GetMetadata().GetName(), "code", next.Exit.Code, "reason", next.Exit.Reason)
}

// RemoveContainer kills and removes the container. It succeeds for an unknown
// one.
func (s *server) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.index.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c != nil {
		c.hasten(time.Now())
		err = s.exclusive(ctx, c.sandbox, func(ctx context.Context) error { return s.removeContainer(ctx, c) })
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// removeContainer wants the gate.
func (s *server) removeContainer(ctx context.Context, c *container) error {
	id := c.cur.Load().ID
	if gone, err := s.index.container(id); gone == nil {
		return err // removed while this call waited
	}
	if err := s.stopUntil(ctx, c, time.Now()); err != nil {
		return err
	}
	last := c.copy()
	if err := s.records.putContainer(last, removing); err != nil {
		return err
	}
	if err := s.guard("RemoveContainer", func() error { return s.rt.RemoveContainer(ctx, last) }); err != nil {
		return fmt.Errorf("removing container %q: %w", id, err)
	}
	if err := s.records.removeContainer(id); err != nil {
		return err
	}
	s.publish(c.sandbox, id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, func() {
		delete(s.index.containers, id)
		delete(c.sandbox.containers, id)
	})
	s.log.InfoContext(ctx, "container removed", "container", id)
	return nil
}

func (s *server) mustContainer(id string) (*container, error) {
	c, err := s.index.container(id)
	if err == nil && c == nil {
		err = ErrNotFound.Errorf("container %q: not found", id)
	}
	return c, err
}

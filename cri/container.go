package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
)

// CreateContainer creates a container, joins a creation in flight, or returns the
// container already created with the same name and attempt.
func (s *server) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if s.rt.CreateContainer == nil {
		return nil, unimplemented("CreateContainer")
	}
	if err := validate.Container(req.GetConfig()); err != nil {
		return nil, err
	}
	sb, err := s.table.Sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := s.rt.refuseContainer(sb.Now().Handler, req.GetConfig()); err != nil {
		return nil, err
	}
	meta := req.GetConfig().GetMetadata()
	key := fmt.Sprintf("container/%s/%s/%d", sb.Now().ID, meta.GetName(), meta.GetAttempt())
	id, err := s.calls.Join(ctx, key, func(ctx context.Context) (string, error) {
		leave, err := sb.Gate.Alone(ctx)
		if err != nil {
			return "", err
		}
		defer leave()
		if have := s.table.ByName(sb, meta); have != nil {
			return adoptContainer(have.Now())
		}
		return s.createContainer(aloneIn(podContext(ctx, sb.Now()), sb), sb, req.GetConfig())
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// adoptContainer answers a repeated CreateContainer.
func adoptContainer(have *record.Container) (string, error) {
	if !have.StartedAt.IsZero() || have.Exit != nil {
		m := have.Config.GetMetadata()
		return "", ErrAlreadyExists.Errorf("container %q attempt %d: container %q has this name and attempt and was started", m.GetName(), m.GetAttempt(), have.ID)
	}
	return have.ID, nil
}

func (s *server) createContainer(ctx context.Context, sb *state.Sandbox, config *runtimeapi.ContainerConfig) (id string, err error) {
	if !sb.Now().Ready {
		return "", ErrFailedPrecondition.Errorf("sandbox %q: it is stopped", sb.Now().ID)
	}
	c, err := s.newContainer(ctx, viewSandbox(sb.Copy()), config)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = undone(err, s.rollbackContainer(ctx, sb, c))
		}
	}()
	if err := s.table.IntendContainer(c.record()); err != nil {
		return "", err
	}
	if err := makeContainerDirs(c); err != nil {
		return "", err
	}
	if err := s.hand("CreateContainer", func() error { return s.rt.CreateContainer(ctx, c) }, c.Sandbox, c); err != nil {
		return "", err
	}
	if err := s.table.AddContainer(sb, c.record()); err != nil {
		return "", err
	}
	s.log.InfoContext(ctx, "container created", "container", c.ID, "name", config.GetMetadata().GetName(), "sandbox", c.Sandbox.ID)
	return c.ID, nil
}

// logPath returns the path of the container's log, "" if no log was requested.
func logPath(s *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	if s.GetLogDirectory() == "" || c.GetLogPath() == "" {
		return ""
	}
	return filepath.Join(s.GetLogDirectory(), c.GetLogPath())
}

func makeContainerDirs(c *Container) error {
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		return fmt.Errorf("making the container's directory: %w", err)
	}
	if c.LogPath == "" {
		return nil
	}
	err := makeLogDir(c.Sandbox.Config.GetLogDirectory(), c.Config.GetLogPath())
	if errors.Is(err, syscall.ENAMETOOLONG) {
		err = ErrInvalid.Wrap(err)
	}
	if err != nil {
		return fmt.Errorf("making the log directory: %w", err)
	}
	return nil
}

// makeLogDir makes the directories of a log below the Pod's log directory, and makes none
// elsewhere: somebody who can write to the log directory may have put symbolic links there.
func makeLogDir(logs, name string) error {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(logs)
	if err != nil {
		return err
	}
	defer root.Close()
	if err = root.MkdirAll(filepath.Dir(name), 0o755); err == nil {
		// A name that the file system refuses fails here rather than at the start.
		_, err = root.Lstat(name)
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil && !errors.As(err, &errno): // it would be elsewhere
		return ErrInvalid.Wrap(err)
	}
	return err
}

// rollbackContainer undoes a failed creation. If that fails as well, the container
// becomes visible as exited, so that the kubelet removes it.
func (s *server) rollbackContainer(ctx context.Context, sb *state.Sandbox, c *Container) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	err := s.hand("RemoveContainer", func() error { return s.rt.RemoveContainer(ctx, c) }, c.Sandbox, c)
	if err == nil {
		err = s.table.ForgetContainer(c.ID)
	}
	if err == nil {
		return nil
	}
	s.table.KeepContainer(sb, c.record(), record.Exit{Code: 128, Reason: "Error", Message: "its creation failed and could not be undone"})
	return fmt.Errorf("undoing the creation of container %q: %w", c.ID, err)
}

// StartContainer starts a created container. It succeeds if the container is already
// running.
func (s *server) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = s.alone(ctx, c.Sandbox, func(ctx context.Context) error { return s.startContainer(ctx, c) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func (s *server) startContainer(ctx context.Context, c *state.Container) error {
	now := c.Now()
	switch {
	case now.Running():
		return nil
	case now.Exit != nil:
		return ErrFailedPrecondition.Errorf("container %q: it has ended", now.ID)
	case !c.Sandbox.Now().Ready:
		return ErrFailedPrecondition.Errorf("sandbox %q: it is stopped", now.Sandbox.ID)
	}
	next, started := viewContainer(c.Copy()), time.Now()
	if err := s.table.IntendStart(c, started); err != nil {
		return err
	}
	if err := s.started(ctx, c, next); err != nil {
		return undone(fmt.Errorf("starting container %q: %w", now.ID, err), s.startFailed(ctx, c, err))
	}
	s.log.InfoContext(ctx, "container started", "container", now.ID, "name", now.Config.GetMetadata().GetName(), "sandbox", now.Sandbox.ID)
	made := next.record()
	made.StartedAt = started
	s.table.Start(c, made)
	return nil
}

// started calls the author with a context that ends when the container is to be stopped
// or removed.
func (s *server) started(ctx context.Context, c *state.Container, next *Container) error {
	ctx, done := c.Starting.Guard(ctx)
	defer done()
	err := s.hand("StartContainer", func() error { return s.rt.StartContainer(ctx, next) }, next.Sandbox, next)
	if err != nil {
		return ended(ctx, err)
	}
	return nil
}

// startFailed makes sure that nothing runs and records the container as exited, to which
// the kubelet responds with a new attempt.
func (s *server) startFailed(ctx context.Context, c *state.Container, cause error) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	next := viewContainer(c.Copy())
	err := s.guard("StopContainer", func() error { return s.rt.StopContainer(ctx, next, 0) })
	s.table.Exit(c, record.Exit{Code: 128, Reason: "StartError", Message: cause.Error()})
	if err != nil {
		return fmt.Errorf("stopping what was started: %w", err)
	}
	return nil
}

// RemoveContainer kills and removes the container. It succeeds if the container is
// unknown.
func (s *server) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.table.Container(req.GetContainerId())
	if errors.Is(err, ErrNotFound) {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer c.Sandbox.Saving.Break(errStopped)()
	defer c.Starting.Break(errStopped)()
	c.Deadline.Hasten(time.Now())
	if err := s.alone(ctx, c.Sandbox, func(ctx context.Context) error { return s.removeContainer(ctx, c) }); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// removeContainer requires the gate to be held alone.
func (s *server) removeContainer(ctx context.Context, c *state.Container) error {
	id := c.Now().ID
	if _, err := s.table.Container(id); errors.Is(err, ErrNotFound) {
		return nil // removed while this call waited
	}
	// A container that never ran is removed at once. If it were ended first, a crash in
	// between would make it look like a failed run.
	if now := c.Now(); now.Exit == nil && !now.Running() {
		if err := s.table.IntendContainerRemoval(c); err != nil {
			return err
		}
	}
	if err := s.stopUntil(ctx, c, time.Now()); err != nil {
		return err
	}
	if err := s.table.IntendContainerRemoval(c); err != nil {
		return err
	}
	if err := s.guard("RemoveContainer", func() error { return s.rt.RemoveContainer(ctx, viewContainer(c.Copy())) }); err != nil {
		return fmt.Errorf("removing container %q: %w", id, err)
	}
	if err := s.table.RemoveContainer(c); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "container removed", "container", id)
	return nil
}

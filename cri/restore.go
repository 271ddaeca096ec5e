package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
)

// RestorePod creates a sandbox with created containers from a checkpoint. A repeated
// request joins one in flight, and returns what that created as long as no container has
// been started.
func (s *server) RestorePod(client context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	if s.checkpoints().Restore == nil || s.rt.StartContainer == nil {
		return nil, unimplemented("RestorePod")
	}
	if err := s.refuseRestore(client, req); err != nil {
		return nil, err
	}
	meta := req.GetConfig().GetMetadata()
	id, err := s.calls.Join(client, fmt.Sprintf("sandbox/%s/%d", meta.GetUid(), meta.GetAttempt()), func(ctx context.Context) (string, error) {
		ctx, cancel := untilGone(ctx, client)
		defer cancel()
		if have := s.table.ByPod(meta); have != nil {
			return adoptSandbox(have.Now(), meta)
		}
		return s.restorePod(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return s.restored(id, req)
}

func (s *server) refuseRestore(client context.Context, req *runtimeapi.RestorePodRequest) error {
	h, err := s.rt.handler(req.GetRuntimeHandler())
	if err != nil {
		return err
	}
	if len(req.GetContainerConfigs()) == 0 {
		return ErrInvalid.Errorf("the request has no container configs")
	}
	names := map[string]bool{}
	for _, c := range req.GetContainerConfigs() {
		if err := validate.Container(c); err != nil {
			return err
		}
		if err := s.rt.refuseContainer(h.Name, c); err != nil {
			return err
		}
		if name := c.GetMetadata().GetName(); names[name] {
			return ErrInvalid.Errorf("container %q: the request has it twice", name)
		}
		names[c.GetMetadata().GetName()] = true
	}
	for _, check := range []func() error{
		func() error { return validate.Deadline(client) },
		func() error { return validate.Sandbox(req.GetConfig()) },
		func() error { return s.rt.refuseSandbox(h, req.GetConfig()) },
		func() error { return validate.Options(req.GetOptions(), s.rt.Checkpoints.RestoreOptions) },
		func() error { return validate.Directory("checkpoint path", req.GetCheckpointPath()) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// restored returns the sandbox's containers if they are those of the request, in the
// state in which it left them.
func (s *server) restored(id string, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	sb, err := s.table.Sandbox(id)
	if err != nil {
		return nil, err
	}
	if have, want := len(s.table.ContainersOf(sb)), len(req.GetContainerConfigs()); have != want {
		return nil, ErrAlreadyExists.Errorf("sandbox %q has this uid and attempt, and %d containers, not %d", id, have, want)
	}
	resp := &runtimeapi.RestorePodResponse{PodSandboxId: id}
	for _, config := range req.GetContainerConfigs() {
		c := s.table.ByName(sb, config.GetMetadata())
		if c == nil || !c.Now().StartedAt.IsZero() || c.Now().Exit != nil {
			return nil, ErrAlreadyExists.Errorf("sandbox %q has this uid and attempt, and container %q is not as a restore leaves it", id, config.GetMetadata().GetName())
		}
		resp.RestoredContainers = append(resp.RestoredContainers, &runtimeapi.RestoredContainer{
			Name: config.GetMetadata().GetName(), ContainerId: c.Now().ID,
		})
	}
	return resp, nil
}

func (s *server) restorePod(ctx context.Context, req *runtimeapi.RestorePodRequest) (id string, err error) {
	sb := s.newSandbox(req.GetConfig(), req.GetRuntimeHandler())
	ctx = podContext(ctx, sb.record())
	containers, err := s.newContainers(ctx, sb, req.GetContainerConfigs())
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = undone(err, s.rollbackRestore(ctx, sb, containers))
		}
	}()
	if err := s.prepare(sb, containers); err != nil {
		return "", err
	}
	err = s.hand("Checkpoints.Restore", func() error {
		return s.rt.Checkpoints.Restore(ctx, sb, slices.Clone(containers), req.GetCheckpointPath(), req.GetOptions())
	}, allPinned([]*Sandbox{sb}, containers)...)
	if err := ended(ctx, err); err != nil {
		return "", fmt.Errorf("restoring from %q: %w", req.GetCheckpointPath(), err)
	}
	made := sb.record()
	made.Ready = true
	records := make([]*record.Container, len(containers))
	for i, c := range containers {
		records[i] = c.record()
	}
	if err := s.table.AddRestored(made, records); err != nil {
		return "", err
	}
	s.log.InfoContext(ctx, "sandbox restored", "sandbox", sb.ID, "pod", podName(sb.Config), "containers", len(containers), "ips", sb.IPs)
	return sb.ID, nil
}

// newContainers returns the containers that a restore is about to create.
func (s *server) newContainers(ctx context.Context, sb *Sandbox, configs []*runtimeapi.ContainerConfig) ([]*Container, error) {
	var all []*Container
	for _, config := range configs {
		c, err := s.newContainer(ctx, sb, config)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// prepare records what a restore is about to create, and creates the directories.
func (s *server) prepare(sb *Sandbox, containers []*Container) error {
	if err := s.table.IntendSandbox(sb.record()); err != nil {
		return err
	}
	if err := os.Mkdir(sb.Dir, 0o700); err != nil {
		return fmt.Errorf("making the sandbox's directory: %w", err)
	}
	for _, c := range containers {
		if err := s.table.IntendContainer(c.record()); err != nil {
			return err
		}
		if err := makeContainerDirs(c); err != nil {
			return err
		}
	}
	return nil
}

// rollbackRestore undoes a failed restore. What cannot be undone becomes visible: the
// sandbox as not ready, its containers as exited.
func (s *server) rollbackRestore(ctx context.Context, sb *Sandbox, containers []*Container) error {
	removing, cancel := rollbackContext(ctx)
	defer cancel()
	sb.Ready = false
	var left []*Container
	var errs []error
	for _, c := range containers {
		err := s.hand("RemoveContainer", func() error { return s.rt.RemoveContainer(removing, c) }, sb, c)
		if err == nil {
			err = s.table.ForgetContainer(c.ID)
		}
		if err != nil {
			left, errs = append(left, c), append(errs, err)
		}
	}
	if len(left) == 0 {
		return s.rollbackSandbox(ctx, sb)
	}
	s.table.KeepSandbox(sb.record())
	kept, err := s.table.Sandbox(sb.ID)
	for _, c := range left {
		if err == nil {
			s.table.KeepContainer(kept, c.record(), record.Exit{Code: 128, Reason: "Error", Message: "its restore failed and could not be undone"})
		}
	}
	return fmt.Errorf("undoing the restore of sandbox %q: %w", sb.ID, errors.Join(append(errs, err)...))
}

// newSandbox returns a sandbox that is about to be created.
func (s *server) newSandbox(config *runtimeapi.PodSandboxConfig, handler string) *Sandbox {
	sb := &Sandbox{ID: record.NewID(), Config: config, Handler: handler, CreatedAt: time.Now()}
	sb.Dir = s.table.Home(sb.ID)
	return sb
}

// newContainer is newSandbox for containers. Their image must be present.
func (s *server) newContainer(ctx context.Context, sb *Sandbox, config *runtimeapi.ContainerConfig) (*Container, error) {
	c := &Container{ID: record.NewID(), Sandbox: sb, Config: config, CreatedAt: time.Now(), StopSignal: config.GetStopSignal()}
	c.Dir, c.LogPath = s.table.Home(c.ID), logPath(sb.Config, config)
	var err error
	if c.ImageRef, err = s.images.Resolve(ctx, config.GetImage()); err != nil {
		return nil, err
	}
	c.Config = s.nameVolumes(ctx, config)
	return c, nil
}

// nameVolumes returns the config with the ids of the images that it mounts, which the
// container's status reports (ImageSpec.image_ref). An image that is not present gets
// none: the runtime, which has to mount it, reports the error.
func (s *server) nameVolumes(ctx context.Context, config *runtimeapi.ContainerConfig) *runtimeapi.ContainerConfig {
	isVolume := func(m *runtimeapi.Mount) bool { return m.GetImage().GetImage() != "" }
	if !slices.ContainsFunc(config.GetMounts(), isVolume) {
		return config
	}
	named := proto.CloneOf(config) // a repeated request has the same config
	for _, m := range named.GetMounts() {
		if !isVolume(m) {
			continue
		}
		if id, err := s.images.Resolve(ctx, m.GetImage()); err == nil {
			m.Image.ImageRef = id
		}
	}
	return named
}

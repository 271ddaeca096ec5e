package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
)

// archiveTime is how long a checkpoint of a container may take when the client
// does not say.
const archiveTime = 2 * time.Minute

// checkpoints returns the author's functions, all nil without any.
func (s *server) checkpoints() Checkpoints {
	if s.rt.Checkpoints == nil {
		return Checkpoints{}
	}
	return *s.rt.Checkpoints
}

// untilGone returns ctx, ended also when the client's ends. It is for work that
// is of no use to a second try.
func untilGone(ctx, client context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(client, cancel)
	by, ok := client.Deadline()
	if !ok {
		return ctx, func() { stop(); cancel() }
	}
	ctx, cancelDeadline := context.WithDeadline(ctx, by)
	return ctx, func() { stop(); cancelDeadline(); cancel() }
}

// CheckpointContainer has the author write an archive beside its place and moves
// it there when it is complete.
func (s *server) CheckpointContainer(client context.Context, req *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if s.checkpoints().Container == nil {
		return nil, unimplemented("CheckpointContainer")
	}
	c, err := s.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetTimeout() < 0 {
		return nil, ErrInvalid.Errorf("timeout %d: it must not be negative", req.GetTimeout())
	}
	if err := validate.Archive(req.GetLocation()); err != nil {
		return nil, err
	}
	limit := archiveTime
	if req.GetTimeout() > 0 {
		limit = flight.Seconds(req.GetTimeout())
	}
	err = s.alone(client, c.Sandbox, func(ctx context.Context) error {
		ctx, cancel := untilGone(ctx, client)
		defer cancel()
		ctx, cancelLimit := context.WithTimeout(ctx, limit)
		defer cancelLimit()
		return s.archive(ctx, c.Now().ID, req.GetLocation())
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

func (s *server) archive(ctx context.Context, id, location string) (err error) {
	c, err := s.running(id)
	if err != nil {
		return err
	}
	partial := location + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("checkpointing container %q: %w", id, err)
	}
	err = s.guard("Checkpoints.Container", func() error { return s.rt.Checkpoints.Container(ctx, c, partial) })
	err = ended(ctx, err)
	if err == nil {
		err = os.Rename(partial, location)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("checkpointing container %q: %w", id, err), os.RemoveAll(partial))
	}
	s.log.InfoContext(ctx, "container checkpointed", "container", id, "location", location)
	return nil
}

// ended returns err, or why the context ended: what was done after that is not
// wanted any more.
func ended(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return ctx.Err()
}

// CheckpointPod pauses the containers, has the author write them down, and
// resumes them, whatever came of it.
func (s *server) CheckpointPod(client context.Context, req *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	known := s.checkpoints()
	if known.Dump == nil {
		return nil, unimplemented("CheckpointPod")
	}
	sb, err := s.table.Sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := validate.Deadline(client); err != nil {
		return nil, err
	}
	if err := validate.Options(req.GetOptions(), known.Options); err != nil {
		return nil, err
	}
	err = s.alone(client, sb, func(ctx context.Context) error {
		ctx, cancel := untilGone(ctx, client)
		defer cancel()
		return s.checkpointPod(ctx, sb, req)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointPodResponse{}, nil
}

func (s *server) checkpointPod(ctx context.Context, sb *state.Sandbox, req *runtimeapi.CheckpointPodRequest) error {
	view, err := s.ready(sb.Now().ID)
	if err != nil {
		return err
	}
	containers, err := s.selected(view, req.GetContainerIds())
	if err != nil {
		return err
	}
	dir := req.GetOutputPath()
	if err := validate.Directory("output path", dir, true); err != nil {
		return err
	}
	if err := s.table.IntendPause(sb); err != nil {
		return err
	}
	err = s.paused(ctx, containers, func() error {
		return s.guard("Checkpoints.Dump", func() error {
			return s.rt.Checkpoints.Dump(ctx, view, containers, dir, req.GetOptions())
		})
	})
	if err = ended(ctx, err); err != nil {
		return errors.Join(fmt.Errorf("checkpointing sandbox %q: %w", view.ID, err), emptied(dir))
	}
	s.log.InfoContext(ctx, "sandbox checkpointed", "sandbox", view.ID, "containers", len(containers), "dir", dir)
	return nil
}

// selected returns the containers of a checkpoint, each of which must run in the
// sandbox.
func (s *server) selected(sb *Sandbox, ids []string) ([]*Container, error) {
	if len(ids) == 0 {
		return nil, ErrInvalid.Errorf("the request has no container ids")
	}
	var all []*Container
	seen := map[string]bool{}
	for _, id := range ids {
		c, err := s.running(id)
		switch {
		case err != nil:
			return nil, err
		case c.Sandbox.ID != sb.ID:
			return nil, ErrInvalid.Errorf("container %q: it is not in sandbox %q", c.ID, sb.ID)
		case seen[c.ID]:
			return nil, ErrInvalid.Errorf("container %q: the request has it twice", c.ID)
		}
		seen[c.ID] = true
		all = append(all, c)
	}
	return all, nil
}

// paused calls f while the containers are paused. It wants the pause on record
// and takes it off again.
func (s *server) paused(ctx context.Context, containers []*Container, f func() error) error {
	err := s.pause(ctx, containers)
	if err == nil {
		err = f()
	}
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	return errors.Join(err, s.resume(ctx, containers[0].Sandbox.ID, containers))
}

func (s *server) pause(ctx context.Context, containers []*Container) error {
	for _, c := range containers {
		err := s.guard("Checkpoints.Pause", func() error { return s.rt.Checkpoints.Pause(ctx, c) })
		if err != nil {
			return fmt.Errorf("pausing container %q: %w", c.ID, err)
		}
	}
	return nil
}

// resume lets all of them go on, and takes the pause off the record if they do.
func (s *server) resume(ctx context.Context, sandboxID string, containers []*Container) error {
	var errs []error
	for _, c := range containers {
		err := s.guard("Checkpoints.Resume", func() error { return s.rt.Checkpoints.Resume(ctx, c) })
		if now, gone := s.table.Container(c.ID); err == nil || gone != nil || now.Now().Exit != nil {
			continue // what has ended is not paused
		}
		errs = append(errs, fmt.Errorf("resuming container %q: %w", c.ID, err))
	}
	if len(errs) == 0 {
		return s.table.ForgetPause(sandboxID)
	}
	return errors.Join(errs...)
}

// thaw resumes what a killed server left paused.
func (s *server) thaw(ctx context.Context) error {
	ids, err := s.table.Pauses()
	if err != nil {
		return err
	}
	for _, id := range ids {
		var containers []*Container
		for _, c := range s.table.Running(&runtimeapi.ContainerStatsFilter{PodSandboxId: id}) {
			containers = append(containers, viewContainer(c.Copy()))
		}
		if len(containers) > 0 && s.checkpoints().Resume == nil {
			return ErrFailedPrecondition.Errorf("containers of sandbox %q may be paused, and this runtime has no Checkpoints.Resume", id)
		}
		if err := s.resume(ctx, id, containers); err != nil {
			s.log.ErrorContext(ctx, "resuming what a killed server left paused", "sandbox", id, "err", err)
		}
	}
	return nil
}

// emptied removes everything in the directory, which stays.
func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing what was written: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

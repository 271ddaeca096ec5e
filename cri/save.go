package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// archiveTime is how long a checkpoint of a container may take if the client does not
// say.
const archiveTime = 2 * time.Minute

// checkpoints returns the author's functions, all nil if there are none.
func (s *server) checkpoints() Checkpoints {
	if s.rt.Checkpoints == nil {
		return Checkpoints{}
	}
	return *s.rt.Checkpoints
}

// untilGone returns ctx, which then also ends with the client's. It is for work that is
// of no use to a retry.
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

// CheckpointContainer has the author write an archive beside its location and moves it
// there when it is complete.
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
		ctx, done := saving(ctx, client, c.Sandbox)
		defer done()
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return s.archive(ctx, c.Now().ID, req.GetLocation())
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// saving returns the context of a checkpoint, which also ends with the client's, and when
// something of the sandbox is to be stopped or removed.
func saving(ctx, client context.Context, sb *state.Sandbox) (context.Context, func()) {
	ctx, done := sb.Saving.Guard(ctx)
	ctx, cancel := untilGone(ctx, client)
	return ctx, func() { cancel(); done() }
}

func (s *server) archive(ctx context.Context, id, location string) error {
	c, err := s.running(id)
	if err != nil {
		return err
	}
	partial := location + "." + record.NewID()[:8] + ".partial"
	if err := s.table.IntendPause(c.Sandbox.ID, partial); err != nil {
		return err
	}
	err = s.guard("Checkpoints.Container", func() error { return s.rt.Checkpoints.Container(ctx, c, partial) })
	if err = ended(ctx, err); err == nil {
		err = place(partial, location)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("checkpointing container %q: %w", id, err), removed(partial))
	}
	err = errors.Join(err, s.resumed(ctx, c.Sandbox.ID, []*Container{c}))
	if err == nil {
		s.log.InfoContext(ctx, "container checkpointed", "container", id, "location", location)
	}
	return err
}

// place moves a complete archive durably to the location that the client requested.
func place(partial, location string) error {
	f, err := os.Open(partial)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(partial, location); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(location))
}

// removed removes a partly written archive, if there is one.
func removed(partial string) error {
	if err := os.Remove(partial); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ended returns err, joined with the cause if the context has ended: the result is then
// not wanted any more, and the cause says more than err.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// CheckpointPod pauses the containers, has the author dump them, and resumes them,
// whatever the result.
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
		ctx, done := saving(ctx, client, sb)
		defer done()
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
	opened, err := validate.EmptyDirectory("output path", dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	if err := s.table.IntendPause(view.ID, ""); err != nil {
		return err
	}
	err = s.paused(ctx, containers, func() error {
		return s.guard("Checkpoints.Dump", func() error {
			return s.rt.Checkpoints.Dump(ctx, view, containers, dir, req.GetOptions())
		})
	})
	if err = ended(ctx, err); err != nil {
		return errors.Join(fmt.Errorf("checkpointing sandbox %q: %w", view.ID, err), emptied(opened))
	}
	s.log.InfoContext(ctx, "sandbox checkpointed", "sandbox", view.ID, "containers", len(containers), "dir", dir)
	return nil
}

// selected returns the containers of a checkpoint, each of which must be running in the
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

// paused calls f while the containers are paused. The pause must be recorded before;
// paused removes the record.
func (s *server) paused(ctx context.Context, containers []*Container, f func() error) error {
	err := s.pause(ctx, containers)
	if err == nil {
		err = f()
	}
	return errors.Join(err, s.resumed(ctx, containers[0].Sandbox.ID, containers))
}

// resumed is resume after a checkpoint, whose context may have ended.
func (s *server) resumed(ctx context.Context, sandboxID string, containers []*Container) error {
	ctx, cancel := rollbackContext(ctx)
	defer cancel()
	return s.resume(ctx, sandboxID, containers)
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

// resume resumes all of them, and removes the record of the pause if that succeeds.
func (s *server) resume(ctx context.Context, sandboxID string, containers []*Container) error {
	if s.checkpoints().Resume == nil { // there is only Container, which leaves nothing paused
		return s.table.ForgetPause(sandboxID)
	}
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

// thaw resumes what a killed server left paused, and removes the archive that it was
// writing.
func (s *server) thaw(ctx context.Context) error {
	pauses, err := s.table.Pauses()
	if err != nil {
		return err
	}
	for _, p := range pauses {
		var containers []*Container
		for _, c := range s.table.Running(&runtimeapi.ContainerStatsFilter{PodSandboxId: p.SandboxID}) {
			containers = append(containers, viewContainer(c.Copy()))
		}
		if len(containers) > 0 && p.Partial == "" && s.checkpoints().Resume == nil {
			return ErrFailedPrecondition.Errorf("containers of sandbox %q may be paused by an earlier version of this runtime, and this one has no Checkpoints.Resume: "+
				"start that version once, or remove the Pod's containers from the machine and its file from the directory pauses", p.SandboxID)
		}
		var err error
		if p.Partial != "" {
			err = removed(p.Partial)
		}
		if err == nil {
			err = s.resume(ctx, p.SandboxID, containers)
		}
		if err != nil {
			s.log.ErrorContext(ctx, "clearing up after a checkpoint that a killed server was making", "sandbox", p.SandboxID, "err", err)
		}
	}
	return nil
}

// emptied removes everything in the directory but not the directory itself, even if its
// path now leads elsewhere.
func emptied(dir *os.Root) error {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("removing what was written: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, dir.RemoveAll(e.Name()))
	}
	return errors.Join(errs...)
}

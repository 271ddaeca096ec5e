package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
)

const (
	// checkpointTime bounds a checkpoint or a restore; the caller must set a deadline.
	checkpointTime = 20 * time.Second
	// goesOnTime is how long a program that prints every 20 ms may be silent after one.
	goesOnTime = 2 * time.Second
)

const setSentence = "The list must be non-empty, must not contain duplicates, and must contain exactly the running containers selected by the caller. " +
	"Every container must belong to `pod_sandbox_id` and be running; otherwise the runtime must fail the request without producing a checkpoint."

func checkpointRules() []rule {
	return append([]rule{
		relied("CRI-CKPT-001", "writes a checkpoint of a container, if it does at all, and lets it run on",
			"checkpoint API", "A container that was checkpointed for somebody to look at goes on as if nothing had been.", checkCheckpoint, Containers, Checkpoint),
		must("CRI-CKPT-002", "refuses a checkpoint of a Pod that never was, if it makes them at all",
			"CheckpointPod", "If the pod sandbox does not exist, the deadline is exceeded, or the checkpoint operation fails, the call returns an error.", checkCheckpointNowhere),
		must("CRI-CKPT-003", "refuses a Pod's checkpoint of other containers than its running ones, writes nothing, and lets them run on",
			"CheckpointPodRequest", setSentence, checkCheckpointSet, Containers),
		must("CRI-CKPT-004", "refuses an option of a Pod's checkpoint that it does not know",
			"CheckpointPodRequest", "The runtime must reject unsupported or invalid keys and values rather than silently ignore them.", checkCheckpointOption, Containers),
		should("CRI-CKPT-005", "refuses to write a Pod's checkpoint into a directory with something in it, which it leaves alone",
			"CheckpointPodRequest", "Absolute path to an existing, empty directory where the runtime must write the checkpoint.", checkCheckpointFull, Containers),
		must("CRI-CKPT-006", "writes a checkpoint of a Pod, and lets its containers run on",
			"CheckpointPod", "This produces one consistent pod-wide cut while ensuring the runtime never returns a frozen pod.", checkCheckpointPod, Containers, Checkpoint),
	}, restoreRules()...)
}

// timed sets the deadline of a checkpoint or a restore.
func timed(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, checkpointTime)
}

// goesOn returns nil when the program, which prints continuously, has printed more than
// before.
func (b *box) goesOn(ctx context.Context) error {
	before, err := b.lines()
	if err != nil {
		return err
	}
	err = until(ctx, goesOnTime, func() error {
		now, err := b.lines()
		if err == nil && now < before+5 {
			return fmt.Errorf("the program prints every 20 ms, and since the call it has printed %d lines: it does not run on", now-before)
		}
		return err
	})
	return errors.Join(err, b.alive(ctx))
}

// printing starts a container whose program prints continuously.
func (p *pod) printing(ctx context.Context) (*box, error) {
	b, err := p.start(ctx, "lines --interval 20ms 0")
	if err != nil {
		return nil, err
	}
	return b, b.says(ctx, "3\n")
}

// printing starts such a container in a Pod of its own.
func (s *subject) printing(ctx context.Context) (*box, error) {
	p, err := s.pod(ctx)
	if err != nil {
		return nil, err
	}
	return p.printing(ctx)
}

func checkCheckpoint(ctx context.Context, s *subject) error {
	b, err := s.printing(ctx)
	if err != nil {
		return err
	}
	archive := filepath.Join(s.in.TempDir, "checkpoint.tar")
	short, cancel := timed(ctx)
	defer cancel()
	_, err = s.Runtime.CheckpointContainer(short, &runtimeapi.CheckpointContainerRequest{ContainerId: b.id, Location: archive})
	if err != nil {
		return unimplemented("CheckpointContainer", err)
	}
	info, err := os.Stat(archive)
	if err != nil {
		return fmt.Errorf("CheckpointContainer succeeded: %w", err)
	}
	if info.Size() == 0 {
		return errors.New("CheckpointContainer wrote an empty file")
	}
	return b.goesOn(ctx)
}

// checkpointPod asks for a checkpoint of a Pod.
func (s *subject) checkpointPod(ctx context.Context, req *runtimeapi.CheckpointPodRequest) error {
	ctx, cancel := timed(ctx)
	defer cancel()
	_, err := s.Runtime.CheckpointPod(ctx, req)
	return err
}

// checkpointsPods returns NotApplicable for a runtime that does not checkpoint Pods, and
// an error for one that accepts a Pod that does not exist.
func (s *subject) checkpointsPods(ctx context.Context) error {
	err := s.checkpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: unknownID, OutputPath: s.in.TempDir, ContainerIds: []string{unknownID}})
	switch {
	case err == nil:
		return errors.New("CheckpointPod of a sandbox that never was succeeded")
	case errors.Is(err, cri.ErrUnimplemented):
		return unimplemented("CheckpointPod", err)
	}
	return nil
}

func checkCheckpointNowhere(ctx context.Context, s *subject) error { return s.checkpointsPods(ctx) }

// checkpointable is a Pod of two containers that print, and an empty directory.
type checkpointable struct {
	*pod
	one, two *box
	dir      string
}

// checkpointable creates one if the runtime checkpoints Pods.
func (s *subject) checkpointable(ctx context.Context) (*checkpointable, error) {
	if err := s.checkpointsPods(ctx); err != nil {
		return nil, err
	}
	p, err := s.pod(ctx)
	if err != nil {
		return nil, err
	}
	c := &checkpointable{pod: p, dir: filepath.Join(s.in.TempDir, "checkpoint")}
	if c.one, err = p.printing(ctx); err != nil {
		return nil, err
	}
	if c.two, err = p.printing(ctx); err != nil {
		return nil, err
	}
	return c, os.Mkdir(c.dir, 0o700)
}

// request returns a request for a checkpoint of the containers.
func (c *checkpointable) request(ids ...string) *runtimeapi.CheckpointPodRequest {
	return &runtimeapi.CheckpointPodRequest{PodSandboxId: c.pod.id, OutputPath: c.dir, ContainerIds: ids}
}

// refuses returns nil when the runtime refuses a checkpoint, leaves as many entries in the
// directory as it has, and lets the containers run on.
func (c *checkpointable) refuses(ctx context.Context, what string, req *runtimeapi.CheckpointPodRequest, has int) error {
	if err := c.s.checkpointPod(ctx, req); err == nil {
		return fmt.Errorf("CheckpointPod %s succeeded", what)
	}
	left, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("behind a checkpoint %s that was refused: %w", what, err)
	}
	if len(left) != has {
		return fmt.Errorf("behind a checkpoint %s that was refused the directory has %v", what, left)
	}
	for _, b := range []*box{c.one, c.two} {
		if err := b.goesOn(ctx); err != nil {
			return fmt.Errorf("behind a checkpoint %s that was refused: %w", what, err)
		}
	}
	return nil
}

func checkCheckpointSet(ctx context.Context, s *subject) error {
	c, err := s.checkpointable(ctx)
	if err != nil {
		return err
	}
	made, err := c.create(ctx, forever)
	if err != nil {
		return err
	}
	other, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	for _, wrong := range []struct {
		what string
		ids  []string
	}{
		{"of no containers", nil},
		{"of a container twice", []string{c.one.id, c.two.id, c.one.id}},
		{"of a container that never was", []string{c.one.id, c.two.id, unknownID}},
		{"of a container that does not run", []string{c.one.id, c.two.id, made.id}},
		{"of another Pod's container", []string{c.one.id, c.two.id, other.id}},
	} {
		if err := c.refuses(ctx, wrong.what, c.request(wrong.ids...), 0); err != nil {
			return err
		}
	}
	return nil
}

func checkCheckpointOption(ctx context.Context, s *subject) error {
	c, err := s.checkpointable(ctx)
	if err != nil {
		return err
	}
	req := c.request(c.one.id, c.two.id)
	req.Options = map[string]string{"conformance.nodekit.dev/unknown": "yes"}
	return c.refuses(ctx, "with an option that nobody knows", req, 0)
}

func checkCheckpointFull(ctx context.Context, s *subject) error {
	c, err := s.checkpointable(ctx)
	if err != nil {
		return err
	}
	const text = "the caller's"
	file := filepath.Join(c.dir, "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	if err := c.refuses(ctx, "into a directory that is not empty", c.request(c.one.id, c.two.id), 1); err != nil {
		return err
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != text {
		return fmt.Errorf("the file that was there has %q: %w", data, err)
	}
	return nil
}

// taken checkpoints the Pod. If the runtime cannot do so on this machine, its author
// declares that.
func (c *checkpointable) taken(ctx context.Context) error {
	if err := c.s.checkpointPod(ctx, c.request(c.one.id, c.two.id)); err != nil {
		return fmt.Errorf("CheckpointPod: %w", err)
	}
	files, err := os.ReadDir(c.dir)
	if err == nil && len(files) == 0 {
		return errors.New("CheckpointPod succeeded, and the directory is empty")
	}
	return err
}

func checkCheckpointPod(ctx context.Context, s *subject) error {
	c, err := s.checkpointable(ctx)
	if err != nil {
		return err
	}
	if err := c.taken(ctx); err != nil {
		return err
	}
	return errors.Join(c.one.goesOn(ctx), c.two.goesOn(ctx))
}

// noRestore returns NotApplicable for a runtime that does not restore Pods.
func noRestore(err error) error {
	if errors.Is(err, cri.ErrUnimplemented) {
		return conformance.NotApplicable("the runtime does not implement RestorePod")
	}
	return nil
}

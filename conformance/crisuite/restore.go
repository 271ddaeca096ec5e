package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

const cleanSentence = "On error, the runtime must remove any sandbox and containers created by the call before returning."

func restoreRules() []rule {
	return []rule{
		must("CRI-CKPT-007", "refuses to restore a Pod by a handler or an option that it does not know, and leaves nothing",
			"RestorePodRequest", "The runtime must reject an unknown non-empty handler.", checkRestoreUnknown, Containers),
		must("CRI-CKPT-008", "refuses to restore a Pod of other containers than its checkpoint has, and leaves nothing",
			"RestorePodRequest", "The list must be non-empty. Every entry must have a non-empty, unique metadata name, and those names must be the exact set of container names in the checkpoint.", checkRestoreNames, Containers),
		must("CRI-CKPT-009", "refuses to restore a Pod from what is no checkpoint, and leaves nothing",
			"RestorePod", cleanSentence, checkRestoreNothing, Containers),
		must("CRI-CKPT-010", "restores a Pod with created containers, each of which then goes on",
			"RestorePod", "On success, every returned container must be in the CREATED state and must not have executed the restored process; the caller invokes its pre-start hooks and then calls StartContainer for each returned ID.",
			checkRestore, Containers, Checkpoint),
	}
}

// saved is a checkpoint: a directory, and the containers in it, if any.
type saved struct {
	dir   string
	boxes []*box
}

// restoring returns a request to restore a Pod of two containers.
func (s *subject) restoring(ctx context.Context, from saved) (*pod, *runtimeapi.RestorePodRequest, error) {
	p := &pod{s: s, config: s.sandbox(fmt.Sprintf("restored%d", s.pods.Add(1)))}
	req := &runtimeapi.RestorePodRequest{CheckpointPath: from.dir, Config: p.config}
	for i := range 2 {
		c, err := p.describe(ctx, "lines --interval 20ms 0")
		if err != nil {
			return nil, nil, err
		}
		if i < len(from.boxes) { // the resumed process keeps its environment
			c.Envs = from.boxes[i].config.GetEnvs()
		}
		req.ContainerConfigs = append(req.ContainerConfigs, c)
	}
	return p, req, nil
}

func (s *subject) restore(ctx context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	ctx, cancel := timed(ctx)
	defer cancel()
	s.in.Target.house.note(s.rule, req.GetConfig().GetMetadata().GetUid())
	return s.Runtime.RestorePod(ctx, req)
}

// restorable returns a checkpoint whose Pod is gone, so that a refusal has only one
// reason; or an empty directory if the runtime cannot make a checkpoint, at all or on
// this machine.
func (s *subject) restorable(ctx context.Context) (saved, error) {
	err := s.checkpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: unknownID, OutputPath: s.in.TempDir, ContainerIds: []string{unknownID}})
	if slices.Contains(s.target.Lacks, Checkpoint) || errors.Is(err, cri.ErrUnimplemented) {
		return s.empty()
	}
	c, err := s.checkpointable(ctx)
	if err != nil {
		return saved{}, err
	}
	if err := c.taken(ctx); err != nil {
		return saved{}, err
	}
	return c.saved(), s.remove(ctx, c.pod.id)
}

func (c *checkpointable) saved() saved { return saved{c.dir, []*box{c.one, c.two}} }

// empty returns an empty directory as a checkpoint.
func (s *subject) empty() (saved, error) {
	dir := filepath.Join(s.in.TempDir, "nothing")
	return saved{dir: dir}, os.MkdirAll(dir, 0o700)
}

// refusesRestore returns nil when the runtime refuses a request that change has made
// invalid, and has no sandbox or container from it.
func (s *subject) refusesRestore(ctx context.Context, from saved, what string, change func(*runtimeapi.RestorePodRequest)) error {
	_, req, err := s.restoring(ctx, from)
	if err != nil {
		return err
	}
	change(req)
	resp, err := s.restore(ctx, req)
	if na := noRestore(err); na != nil {
		return na
	}
	if err == nil {
		return fmt.Errorf("RestorePod %s made sandbox %q", what, resp.GetPodSandboxId())
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(items) > 0 {
		return fmt.Errorf("RestorePod %s failed and left %v", what, items)
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{LabelSelector: map[string]string{label: s.mark}})
	if err == nil && len(all) > 0 {
		return fmt.Errorf("RestorePod %s failed and left %v", what, all)
	}
	return err
}

func checkRestoreUnknown(ctx context.Context, s *subject) error {
	from, err := s.restorable(ctx)
	if err != nil {
		return err
	}
	err = s.refusesRestore(ctx, from, "by a handler that nobody knows", func(r *runtimeapi.RestorePodRequest) { r.RuntimeHandler = s.mark + "-no-such-handler" })
	if err != nil {
		return err
	}
	return s.refusesRestore(ctx, from, "with an option that nobody knows", func(r *runtimeapi.RestorePodRequest) {
		r.Options = map[string]string{"conformance.nodekit.dev/unknown": "yes"}
	})
}

func checkRestoreNames(ctx context.Context, s *subject) error {
	from, err := s.restorable(ctx)
	if err != nil {
		return err
	}
	for _, wrong := range []struct {
		what   string
		change func(*runtimeapi.RestorePodRequest)
	}{
		{"without containers", func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs = nil }},
		{"with two containers of one name", func(r *runtimeapi.RestorePodRequest) {
			r.ContainerConfigs[1].Metadata.Name = r.ContainerConfigs[0].Metadata.Name
		}},
		{"with one container of two", func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs = r.ContainerConfigs[:1] }},
		{"with a container that was none of its", func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Metadata.Name = "stranger" }},
	} {
		if err := s.refusesRestore(ctx, from, wrong.what, wrong.change); err != nil {
			return err
		}
	}
	return nil
}

func checkRestoreNothing(ctx context.Context, s *subject) error {
	from, err := s.empty()
	if err != nil {
		return err
	}
	return s.refusesRestore(ctx, from, "from an empty directory", func(*runtimeapi.RestorePodRequest) {})
}

// checkRestore removes the Pod that it has checkpointed, and restores it as another Pod
// with the same containers.
func checkRestore(ctx context.Context, s *subject) error {
	c, err := s.checkpointable(ctx)
	if err != nil {
		return err
	}
	if err := c.taken(ctx); err != nil {
		return err
	}
	if err := s.remove(ctx, c.pod.id); err != nil {
		return err
	}
	p, req, err := s.restoring(ctx, c.saved())
	if err != nil {
		return err
	}
	resp, err := s.restore(ctx, req)
	if na := noRestore(err); na != nil {
		return na
	}
	if err != nil {
		return fmt.Errorf("RestorePod: %w", err)
	}
	p.id = resp.GetPodSandboxId()
	boxes, err := p.restored(resp, req.GetContainerConfigs())
	if err != nil {
		return err
	}
	for _, b := range boxes {
		if err := b.resumes(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restored returns the containers of an answer, which must have one for each config.
func (p *pod) restored(resp *runtimeapi.RestorePodResponse, configs []*runtimeapi.ContainerConfig) (boxes []*box, err error) {
	ids := map[string]string{}
	for _, r := range resp.GetRestoredContainers() {
		ids[r.GetName()] = r.GetContainerId()
	}
	if p.id == "" || len(resp.GetRestoredContainers()) != len(configs) {
		return nil, fmt.Errorf("RestorePod of %d containers answered %v", len(configs), resp)
	}
	for _, c := range configs {
		id := ids[c.GetMetadata().GetName()]
		if id == "" {
			return nil, fmt.Errorf("RestorePod answered %v, want container %q in it", resp, c.GetMetadata().GetName())
		}
		p.s.in.Target.house.note(p.s.rule, short(id))
		boxes = append(boxes, &box{pod: p, id: id, config: c})
	}
	return boxes, nil
}

// resumes returns nil when a restored container is created, has printed nothing, and runs
// when it is started.
func (b *box) resumes(ctx context.Context) error {
	if err := b.in(ctx, runtimeapi.ContainerState_CONTAINER_CREATED); err != nil {
		return fmt.Errorf("behind RestorePod: %w", err)
	}
	if n, err := b.lines(); err == nil && n > 0 {
		return fmt.Errorf("behind RestorePod, and before StartContainer, the program has printed %d lines", n)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := b.start(ctx); err != nil {
		return fmt.Errorf("of a restored container: %w", err)
	}
	if err := b.says(ctx, "\n"); err != nil {
		return err
	}
	return b.goesOn(ctx)
}

package crisuite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cancelRounds is how often a rule cuts a call short at a random moment.
const cancelRounds = 4

// checkCancelStart allows a container whose start was cut off to have ended.
func checkCancelStart(ctx context.Context, s *subject) error {
	shown, err := s.watched(ctx, forever) // shows that processes can be seen
	if err != nil {
		return err
	}
	for round := range cancelRounds {
		b, err := shown.pod.create(ctx, forever)
		if err != nil {
			return err
		}
		s.cutShort(ctx, b.start)
		err = retry(ctx, func() error {
			st, err := b.status(ctx)
			if err != nil || st.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED {
				return err
			}
			return b.start(ctx)
		})
		if err == nil {
			err = b.startedOnce(ctx)
		}
		if err == nil {
			err = b.remove(ctx)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return nil
}

func checkCancelRemove(ctx context.Context, s *subject) error {
	for round := range cancelRounds {
		b, err := s.watched(ctx, forever)
		if err != nil {
			return err
		}
		s.cutShort(ctx, b.remove)
		err = retry(ctx, func() error { return b.remove(ctx) })
		if err == nil {
			err = errors.Join(b.absent(ctx), b.ended())
		}
		if err != nil {
			return fmt.Errorf("round %d: of a container: %w", round+1, err)
		}
		if err := s.cutRemoval(ctx, b.pod.id); err != nil {
			return fmt.Errorf("round %d: of a sandbox: %w", round+1, err)
		}
	}
	return nil
}

// cutRemoval stops and removes a sandbox with calls that are cut short and retried.
func (s *subject) cutRemoval(ctx context.Context, id string) error {
	remove := func(ctx context.Context) error {
		_, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
		return err
	}
	for _, call := range []func(context.Context) error{func(ctx context.Context) error { return s.stop(ctx, id) }, remove} {
		s.cutShort(ctx, call)
		if err := retry(ctx, func() error { return call(ctx) }); err != nil {
			return err
		}
	}
	return s.absent(ctx, id)
}

func checkCancelPull(ctx context.Context, s *subject) error {
	for round := range cancelRounds {
		ref := s.images.ref(fmt.Sprintf("%s%s-%d:v1", uniqueRepo, s.mark, round))
		s.cutShort(ctx, func(short context.Context) error { _, err := s.pull(short, ref); return err })
		if err := s.whole(ctx, ref); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		if err := s.removeAll(ctx); err != nil {
			return err
		}
		if err := s.removeImage(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

// whole retries the pull of a unique image until it succeeds, and returns nil when a
// container of the image finds the image's file.
func (s *subject) whole(ctx context.Context, ref string) error {
	err := retry(ctx, func() error { _, err := s.pull(ctx, ref); return err })
	if err != nil {
		return fmt.Errorf("tried again: %w", err)
	}
	out, err := s.prints(ctx, "cat /name", func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref })
	if repository := strings.TrimPrefix(strings.TrimSuffix(ref, ":v1"), s.images.ref("")); err == nil && !strings.HasPrefix(out, repository) {
		return fmt.Errorf("in a container of the image the file has %q", out)
	}
	return err
}

func checkCancelRemoveImage(ctx context.Context, s *subject) error {
	for round := range cancelRounds {
		_, ref, _, err := s.own(ctx)
		if err != nil {
			return err
		}
		s.cutShort(ctx, func(short context.Context) error { return s.removeImage(short, ref) })
		err = retry(ctx, func() error { return s.removeImage(ctx, ref) })
		if err == nil {
			err = s.without(ctx, ref)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return nil
}

// without returns nil when the runtime does not have the image.
func (s *subject) without(ctx context.Context, ref string) error {
	im, err := s.image(ctx, ref)
	if err == nil && im != nil {
		return fmt.Errorf("ImageStatus of the removed image shows %v", im)
	}
	return err
}

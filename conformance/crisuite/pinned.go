package crisuite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func checkUnpinned(ctx context.Context, s *subject) error {
	repository, ref, _, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	if err := s.pinned(ctx, ref, false); err != nil {
		return err
	}
	listed, err := s.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("ListImages: %w", err)
	}
	for _, l := range listed.GetImages() {
		im, err := s.image(ctx, l.GetId())
		if err != nil {
			return err
		}
		if im != nil && im.GetPinned() != l.GetPinned() { // another rule may have removed it
			return fmt.Errorf("the image %q is pinned: %v in ListImages, and %v in ImageStatus", l.GetId(), l.GetPinned(), im.GetPinned())
		}
	}
	return nil
}

// pinned returns nil when ImageStatus and ListImages show an image that is present as
// pinned, or not.
func (s *subject) pinned(ctx context.Context, ref string, want bool) error {
	im, err := s.image(ctx, ref)
	if err != nil {
		return err
	}
	if im == nil {
		return fmt.Errorf("ImageStatus does not show the image %q", ref)
	}
	listed, err := s.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("ListImages: %w", err)
	}
	err = fmt.Errorf("ListImages does not show the image %q", ref)
	for _, l := range listed.GetImages() {
		if l.GetId() == im.GetId() {
			err = pinnedAs("ListImages", l, want)
		}
	}
	return errors.Join(pinnedAs("ImageStatus", im, want), err)
}

func pinnedAs(call string, im *runtimeapi.Image, want bool) error {
	if im.GetPinned() != want {
		return fmt.Errorf("%s shows the image %q as pinned: %v, want %v", call, im.GetId(), im.GetPinned(), want)
	}
	return nil
}

// checkPinned removes no image that it has not pulled: it may be what sandboxes are made
// of.
func checkPinned(ctx context.Context, s *subject) error {
	name, pulls := strings.CutPrefix(s.target.Pinned, Registry+"/")
	switch {
	case s.target.Pinned == "":
		return conformance.NotApplicable("the runtime's author names no image that it pins (fact pinned)")
	case !pulls:
		return s.pinned(ctx, name, true)
	}
	if err := s.target.missing([]Feature{Pull}); err != nil {
		return err
	}
	ref := s.images.ref(name)
	if _, err := s.pull(ctx, ref); err != nil {
		return err
	}
	if err := errors.Join(s.pinned(ctx, ref, true), s.removeImage(ctx, ref)); err != nil {
		return err
	}
	return s.without(ctx, ref)
}

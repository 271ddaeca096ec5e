package crisuite

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
)

func imageRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-IMG-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "answers ImageStatus of an image that is not present with no image and no error",
		Spec:  spec("ImageStatus", "If the image is not present, returns a response with ImageStatusResponse.Image set to nil."),
		Check: with(checkAbsentImage),
	}}
}

func checkAbsentImage(ctx context.Context, s *subject) error {
	absent := "conformance.nodekit.dev/" + s.mark + "/absent:v1"
	resp, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: absent}})
	if errors.Is(err, cri.ErrUnimplemented) {
		return conformance.NotApplicable("the runtime has no images")
	}
	if err != nil {
		return fmt.Errorf("ImageStatus of %q, which is not present: %w", absent, err)
	}
	if resp.GetImage() != nil {
		return fmt.Errorf("ImageStatus of %q, which is not present, shows %v", absent, resp.GetImage())
	}
	return nil
}

package crisuite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func pullRules() []rule {
	return []rule{
		must("CRI-PULL-001", "pulls an image by its digest",
			"ImageSpec", "Container's Image field (e.g. imageID or imageDigest).", checkPullDigest, Pull),
		must("CRI-PULL-002", "pulls with the account that the request has",
			"PullImage", "PullImage pulls an image with authentication config.", checkPullAuth, Pull),
		relied("CRI-PULL-003", "fails a pull without the account, and has no image then",
			"EnsureImageExists", "A pull that fails leaves the Pod waiting with the reason.", checkPullDenied, Pull),
		relied("CRI-PULL-004", "fails a pull of an image that is not there",
			"EnsureImageExists", "A pull that fails leaves the Pod waiting with the reason.", checkPullAbsent, Pull),
		facto("CRI-PULL-005", "refuses a layer that is not what its digest says",
			"image integrity", "The digest in a Pod's image is a promise of its content.", checkPullBroken, Pull),
		heavy(facto("CRI-PULL-006", "pulls one image for many at once, and answers all with one id",
			"parallel pulls", "Pods that are made together pull their image together.", checkPullTogether, Pull)),
		facto("CRI-PULL-007", "refuses a name that is none",
			"InvalidImageName", "A Pod may have anything as its image.", checkPullBadName, Pull),
		relied("CRI-PULL-008", "pulls again what is present, and gives the same id",
			"imagePullPolicy", "With Always the kubelet pulls before every start.", checkPullAgain, Pull),
		relied("CRI-PULL-009", "pulls an image whole at another try when the registry failed half way",
			"EnsureImageExists", "A pull that failed is tried again, and the image is whole then.", checkPullCut, Pull, Isolation),
	}
}

func checkPullDigest(ctx context.Context, s *subject) error {
	repository := uniqueRepo + s.mark
	digest, err := s.images.digest(repository)
	if err != nil {
		return err
	}
	ref := s.images.ref(repository) + "@" + digest
	id, err := s.pull(ctx, ref)
	if err != nil {
		return err
	}
	defer func() { _ = s.removeImage(context.WithoutCancel(ctx), ref) }()
	im, err := s.image(ctx, ref)
	if err != nil {
		return err
	}
	if im == nil || id == "" || len(im.GetRepoTags()) > 0 {
		return fmt.Errorf("an image pulled by its digest has the id %q and is shown as %v, want no tag", id, im)
	}
	return nil
}

func (s *subject) pullAs(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) error {
	_, err := s.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth})
	return err
}

func checkPullAuth(ctx context.Context, s *subject) error {
	ref := s.images.ref(privateRepo + s.mark + ":v1")
	err := s.pullAs(ctx, ref, &runtimeapi.AuthConfig{Username: registryUser, Password: registryPassword})
	if err != nil {
		return fmt.Errorf("PullImage with the account: %w", err)
	}
	return s.removeImage(ctx, ref)
}

func checkPullDenied(ctx context.Context, s *subject) error {
	ref := s.images.ref(privateRepo + s.mark + ":v1")
	for _, as := range []struct {
		who  string
		auth *runtimeapi.AuthConfig
	}{
		{"without an account", nil}, {"with a wrong password", &runtimeapi.AuthConfig{Username: registryUser, Password: "x"}},
	} {
		if err := s.pullAs(ctx, ref, as.auth); err == nil {
			return errors.Join(fmt.Errorf("PullImage %s succeeded", as.who), s.removeImage(ctx, ref))
		}
	}
	return s.hasNot(ctx, ref)
}

func (s *subject) hasNot(ctx context.Context, ref string) error {
	im, err := s.image(ctx, ref)
	if err == nil && im != nil {
		return errors.Join(fmt.Errorf("behind a pull that failed ImageStatus shows %v", im), s.removeImage(ctx, ref))
	}
	return err
}

func checkPullAbsent(ctx context.Context, s *subject) error {
	ref := s.images.ref(absentRepo + "x:v1")
	if err := s.pullAs(ctx, ref, nil); err == nil {
		return errors.New("PullImage of an image that is not there succeeded")
	}
	return s.hasNot(ctx, ref)
}

func checkPullBroken(ctx context.Context, s *subject) error {
	ref := s.images.ref(brokenRepo + s.mark + ":v1")
	if err := s.pullAs(ctx, ref, nil); err == nil {
		return errors.Join(errors.New("PullImage of an image with a layer that is not what its digest says succeeded"), s.removeImage(ctx, ref))
	}
	return s.hasNot(ctx, ref)
}

func checkPullTogether(ctx context.Context, s *subject) error {
	const many = 8
	ref := s.images.ref(uniqueRepo + s.mark + ":v1")
	defer func() { _ = s.removeImage(context.WithoutCancel(ctx), ref) }()
	ids, errs := make([]string, many), make([]error, many)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { ids[i], errs[i] = s.pull(ctx, ref) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if first := strings.Repeat(ids[0]+" ", many); strings.Join(ids, " ")+" " != first || ids[0] == "" {
		return fmt.Errorf("%d pulls of one image answered %q", many, ids)
	}
	return nil
}

func checkPullBadName(ctx context.Context, s *subject) error {
	for _, bad := range []string{"", "UPPER/Case", "a b", "http://x/y", "x@sha256:1", ":v1", "../../etc/passwd"} {
		if err := s.pullAs(ctx, bad, nil); err == nil {
			return fmt.Errorf("PullImage of %q succeeded", bad)
		}
	}
	return nil
}

func checkPullAgain(ctx context.Context, s *subject) error {
	repository, ref, first, err := s.own(ctx)
	if err != nil {
		return err
	}
	defer s.unpull(ctx, repository+":v1")
	second, err := s.pull(ctx, ref)
	if err == nil && first != second {
		return fmt.Errorf("two pulls of one image answered %q and %q", first, second)
	}
	return err
}

// checkPullCut allows a runtime to retry by itself.
func checkPullCut(ctx context.Context, s *subject) error {
	ref := s.images.ref(cutRepo + s.mark + ":v1")
	defer func() { _ = s.removeImage(context.WithoutCancel(ctx), ref) }()
	if _, err := s.pull(ctx, ref); err != nil {
		if err := s.hasNot(ctx, ref); err != nil {
			return err
		}
	}
	return s.whole(ctx, ref)
}

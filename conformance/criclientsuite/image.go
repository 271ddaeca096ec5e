package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func imageRules() []rule {
	return []rule{
		relied("CRIC-IMG-001", "pulls an image that is not present, before it creates the container",
			"imagePullPolicy", "With IfNotPresent an image is pulled that the runtime does not have.", checkPullsMissing),
		relied("CRIC-IMG-002", "does not pull an image that is present, unless the Pod says Always",
			"imagePullPolicy", "With IfNotPresent an image that the runtime has is used as it is.", checkPulls(v1.PullIfNotPresent, 0)),
		relied("CRIC-IMG-003", "pulls an image that is present where the Pod says Always",
			"imagePullPolicy", "With Always the registry is asked each time that a container is created.", checkPulls(v1.PullAlways, 1)),
		relied("CRIC-IMG-004", "neither pulls nor creates where the Pod says Never and the image is not there",
			"imagePullPolicy", "With Never an image that the runtime does not have is an error.", checkNeverPulls),
		must("CRIC-IMG-005", "creates the container of the image that PullImage answered",
			"PullImageResponse.image_ref", "Reference to the unique identifier of the image on the node, as returned in the image and runtime service apis.", checkPulledImage),
		must("CRIC-IMG-006", "says which image the user asked for",
			"ImageSpec.user_specified_image", "The container image reference specified by the user (e.g. image[:tag] or digest).", asksContainer(nil, func(r *runtimeapi.CreateContainerRequest) error {
				return want("user_specified_image", r.GetConfig().GetImage().GetUserSpecifiedImage(), imageOf(r.GetSandboxConfig().GetLabels()[podLabel], mainName))
			})),
		should("CRIC-IMG-007", "says for which sandbox an image is pulled",
			"PullImageRequest.sandbox_config", "Config of the PodSandbox, which is used to pull image in PodSandbox context.", checkPullContext),
		slow(relied("CRIC-IMG-008", "tries a pull again that failed, after a while, and creates nothing until then",
			"ErrImagePull", "A pull that fails is tried again with a back-off.", checkPullAgain)),
		facto("CRIC-IMG-009", "removes no image that a container uses, and none that is pinned",
			"Image.pinned", "The garbage collection of images spares those in use and those that the runtime pins.", checkCollects),
	}
}

// pulled gives the kubelet a Pod whose image is not present.
func (l *lab) pulled(policy v1.PullPolicy) (*subject, error) {
	return l.pod(func(p *v1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = absent, policy
	})
}

func checkPullsMissing(ctx context.Context, l *lab) error {
	s, err := l.pulled(v1.PullIfNotPresent)
	if err != nil {
		return err
	}
	if err := s.started(ctx); err != nil {
		return err
	}
	pulls, created := s.calls().of("PullImage"), s.calls().of("CreateContainer").first()
	if len(pulls) != 1 || pulls[0].ended.After(created.begun) {
		return fmt.Errorf("PullImage was called %d times before the container was created, want once", len(pulls))
	}
	return nil
}

func checkPulls(policy v1.PullPolicy, times int) look {
	return func(ctx context.Context, l *lab) error {
		s, err := l.running(ctx, func(p *v1.Pod) { p.Spec.Containers[0].ImagePullPolicy = policy })
		if err != nil {
			return err
		}
		return want("how often PullImage was called", len(s.calls().of("PullImage")), times)
	}
}

func checkNeverPulls(ctx context.Context, l *lab) error {
	s, err := l.pulled(v1.PullNever)
	if err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs, "ImageStatus") }); err != nil {
		return err
	}
	l.calm(ctx)
	if cs := s.calls().of("PullImage", "CreateContainer"); len(cs) > 0 {
		return fmt.Errorf("%s was called", cs[0].method)
	}
	return nil
}

func checkPulledImage(ctx context.Context, l *lab) error {
	s, err := l.pulled(v1.PullIfNotPresent)
	if err != nil {
		return err
	}
	req, err := s.container(ctx)
	if err != nil {
		return err
	}
	return want("the container's image", req.GetConfig().GetImage().GetImage(), imageID(s.spec.Spec.Containers[0].Image))
}

func checkPullContext(ctx context.Context, l *lab) error {
	s, err := l.pulled(v1.PullIfNotPresent)
	if err != nil {
		return err
	}
	if err := s.started(ctx); err != nil {
		return err
	}
	pull, ok := s.calls().of("PullImage").first().req.(*runtimeapi.PullImageRequest)
	if !ok || pull.GetSandboxConfig().GetMetadata().GetUid() == "" {
		return errors.New("sandbox_config of PullImage is empty")
	}
	return want("the UID in sandbox_config of PullImage", pull.GetSandboxConfig().GetMetadata().GetUid(), s.calls().sandboxes()[0].GetConfig().GetMetadata().GetUid())
}

func checkPullAgain(ctx context.Context, l *lab) error {
	s := l.draft(func(p *v1.Pod) { p.Spec.Containers[0].Image = absent })
	remove := l.inject(&fault{method: "PullImage", pod: s.name, before: func(context.Context, *call) error {
		return cri.ErrUnavailable.Errorf("the registry is away")
	}})
	if err := s.give(); err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs.over(), "PullImage") }); err != nil {
		return err
	}
	l.calm(ctx)
	cs := s.calls()
	remove()
	if most := hurry(l.target.calm()); len(cs.of("PullImage")) > most {
		return fmt.Errorf("PullImage was called %d times within %v of its failure", len(cs.of("PullImage")), l.target.calm())
	}
	if len(cs.of("CreateContainer")) > 0 {
		return errors.New("CreateContainer was called, and the image could not be pulled")
	}
	return s.awaitSuch(ctx, backOffTime, s.mine, func(cs calls) error {
		if len(cs.of("StartContainer").good()) == 0 {
			return errors.New("the container was not started when the image could be pulled")
		}
		return nil
	})
}

// backOffTime is how long the first pause of a back-off, and what follows it, may take.
const backOffTime = 20 * time.Second

// hurry returns how often something that always fails may be tried within a time.
func hurry(within time.Duration) int {
	const first, every = 5, 100 * time.Millisecond
	return first + int(within/every)
}

// checkCollects checks all images that were removed in the run so far.
func checkCollects(ctx context.Context, l *lab) error {
	pinned := registryHost + "/pinned/" + l.rule + ":v1"
	l.images.add(pinned, true)
	l.rec.claimImage(pinned, "pinned", "")
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	l.calm(ctx)
	kept := []string{pinned, imageID(pinned), s.spec.Spec.Containers[0].Image, imageID(s.spec.Spec.Containers[0].Image)}
	removed, _ := l.rec.seen(func(c *call) bool {
		req, ok := c.req.(*runtimeapi.RemoveImageRequest)
		return ok && slices.Contains(kept, req.GetImage().GetImage())
	})
	if len(removed) > 0 {
		return errors.New("RemoveImage was called for an image that is in use or pinned")
	}
	return nil
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// image returns the container's image. It pulls it for the sandbox if the pull policy
// requires that.
func (w *worker) image(ctx context.Context, p *v1.Pod, c *v1.Container, sandbox *runtimeapi.PodSandboxConfig) (*runtimeapi.Image, error) {
	if _, err := name.ParseReference(c.Image); err != nil {
		return nil, &pod.StartError{Reason: "InvalidImageName", Err: fmt.Errorf("image %q: %w", c.Image, err)}
	}
	begun := time.Now()
	if c.ImagePullPolicy != v1.PullAlways {
		image, err := w.imageStatus(ctx, c.Image)
		if image != nil && err == nil {
			w.event(c.Name, pod.EventPulled, fmt.Sprintf("Image %q is already present on machine", c.Image))
		}
		if err != nil || image != nil {
			return image, err
		}
		if c.ImagePullPolicy == v1.PullNever {
			return nil, &pod.StartError{Reason: "ErrImageNeverPull", Err: fault.NotFound.Errorf(
				"image %q is not on this node and imagePullPolicy is Never: load it with \"nodekit image load\"", c.Image)}
		}
	}
	w.event(c.Name, pod.EventPulling, fmt.Sprintf("Pulling image %q", c.Image))
	pulled, err := w.pull(ctx, p, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image}, SandboxConfig: sandbox,
	})
	w.step(pod.StepImage, c.Image, begun, err)
	if err != nil {
		return nil, &pod.StartError{Reason: "ErrImagePull", Err: err, Pull: true}
	}
	image, err := w.imageStatus(ctx, pulled)
	if err != nil {
		return nil, err
	}
	if image == nil {
		return nil, &pod.StartError{Reason: "ErrImagePull", Err: fault.NotFound.Errorf("image %q was pulled as %q and is not there", c.Image, pulled)}
	}
	w.event(c.Name, pod.EventPulled, fmt.Sprintf("Pulled image %q in %s", c.Image, time.Since(begun).Round(time.Millisecond)))
	return image, nil
}

// pull pulls an image and returns the runtime's reference to it. It tries the Pod's
// credentials one after another, and finally those of the runtime. The CRI does not say
// which errors are authorization failures, so any error leads to the next attempt; all
// distinct errors are returned.
func (w *worker) pull(ctx context.Context, p *v1.Pod, request *runtimeapi.PullImageRequest) (reference string, err error) {
	credentials, err := w.config.Credentials(ctx, p, request.Image.Image)
	if err != nil && ctx.Err() == nil {
		w.warn("", pod.EventPullSecret, fmt.Sprintf("Not all imagePullSecrets can be used, and images may not be pulled without them: %v", err))
		w.log.Warn("image pull secrets that cannot be used", "image", request.Image.Image, "err", err)
	}
	var errs []error
	for _, request.Auth = range append(credentials, nil) {
		pulled, err := w.config.Images.PullImage(ctx, request)
		if err == nil {
			return pulled.ImageRef, nil
		}
		if !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return "", errors.Join(errs...)
}

func (w *worker) imageStatus(ctx context.Context, reference string) (*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := w.config.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: reference}})
	if err != nil {
		return nil, &pod.StartError{Reason: "ImageInspectError", Err: fmt.Errorf("asking for image %q: %w", reference, err)}
	}
	return resp.Image, nil
}

package kubelet

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/credential"
)

// credentials returns the credentials for the image from the Secrets in the Pod's
// imagePullSecrets. The Secrets are read again for each pull, so a correction takes
// effect with the next. The error names those that cannot be used.
func (k *Kubelet) credentials(ctx context.Context, p *v1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	var ring credential.Keyring
	var errs []error
	for _, ref := range p.Spec.ImagePullSecrets {
		if ref.Name == "" { // Kubernetes accepts these and ignores them
			continue
		}
		if err := k.addSecret(ctx, &ring, p.Namespace, ref.Name); err != nil {
			errs = append(errs, err)
		}
	}
	return ring.For(image), errors.Join(errs...)
}

// addSecret adds a Secret to the ring. Of an API error it returns only the kind,
// because the text might quote what was read.
func (k *Kubelet) addSecret(ctx context.Context, ring *credential.Keyring, namespace, name string) error {
	var s v1.Secret
	err := k.client.Get(ctx, namespace, name, &s)
	switch {
	case errors.Is(err, fault.NotFound):
		return fault.NotFound.Errorf("Secret %q is not there", name)
	case err != nil:
		return fault.Of(err).Errorf("Secret %q cannot be read: %s", name, fault.Of(err))
	}
	if err := ring.Add(&s); err != nil {
		return fault.Invalid.Errorf("Secret %q cannot be used: %w", name, err)
	}
	return nil
}

package kubelet

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// handler returns the runtime handler that the Pod requests with its RuntimeClass. It
// returns a WaitError for a class that does not exist yet. It rejects a Pod that needs
// a feature that the runtime does not report, because the runtime would silently omit
// it.
func (k *Kubelet) handler(ctx context.Context, p *v1.Pod) (string, error) {
	if s := p.Spec.SecurityContext; s != nil && s.SupplementalGroupsPolicy != nil && *s.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		resp, err := k.runtimeStatus(ctx)
		if err != nil {
			return "", err
		}
		if !resp.GetFeatures().GetSupplementalGroupsPolicy() {
			return "", &pod.RejectError{
				Reason:  "SupplementalGroupsPolicyNotSupported",
				Message: "supplementalGroupsPolicy is Strict, and the runtime does not say that it knows that",
			}
		}
	}
	if p.Spec.RuntimeClassName == nil || *p.Spec.RuntimeClassName == "" {
		return "", nil
	}
	var class nodev1.RuntimeClass
	err := k.client.Get(ctx, "", *p.Spec.RuntimeClassName, &class)
	if errors.Is(err, fault.NotFound) {
		return "", &pod.WaitError{Reason: "FailedCreatePodSandBox", For: fmt.Sprintf("RuntimeClass %q", *p.Spec.RuntimeClassName), Err: err}
	}
	return class.Handler, err
}

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

// handler returns the runtime's handler that the Pod asks for by its RuntimeClass. A
// class that is not there is waited for. A Pod that wants what the runtime does not say
// that it can do is rejected: the runtime would leave it out and say nothing.
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

package object

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// podResources checks the pod-level requests and limits: which resources they name, and
// whether they cover the containers.
func (v *problems) podResources(s *v1.PodSpec) {
	own := s.Resources
	if own == nil {
		return
	}
	const field = "spec.resources"
	for kind, list := range map[string]v1.ResourceList{"requests": own.Requests, "limits": own.Limits} {
		for name := range list {
			if name != v1.ResourceCPU && name != v1.ResourceMemory {
				v.add(field+"."+kind, "%s is for containers: a Pod has cpu and memory", name)
			}
		}
	}
	v.requestsFit(field, *own)
	bare := *s
	bare.Resources = nil
	asked := pod.Requests(&v1.Pod{Spec: bare})
	for kind, list := range map[string]v1.ResourceList{"requests": own.Requests, "limits": own.Limits} {
		for name, sum := range map[v1.ResourceName]*resource.Quantity{
			v1.ResourceCPU:    resource.NewMilliQuantity(asked.MilliCPU, resource.DecimalSI),
			v1.ResourceMemory: resource.NewQuantity(asked.Memory, resource.BinarySI),
		} {
			if have, ok := list[name]; ok && sum.Cmp(have) > 0 {
				v.add(fmt.Sprintf("%s.%s[%s]", field, kind, name), "%s is less than the %s that the containers ask for", have.String(), sum.String())
			}
		}
	}
	for kind, list := range map[string][]v1.Container{"initContainers": s.InitContainers, "containers": s.Containers} {
		for i := range list {
			for name, limit := range list[i].Resources.Limits {
				if have, ok := own.Limits[name]; ok && limit.Cmp(have) > 0 {
					v.add(fmt.Sprintf("spec.%s[%d].resources.limits[%s]", kind, i, name), "%s is more than the Pod's limit of %s", limit.String(), have.String())
				}
			}
		}
	}
}

// requestsFit checks that no request exceeds its limit.
func (v *problems) requestsFit(field string, r v1.ResourceRequirements) {
	for name, request := range r.Requests {
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			v.add(fmt.Sprintf("%s.requests[%s]", field, name), "%s is more than the limit of %s", request.String(), limit.String())
		}
	}
}

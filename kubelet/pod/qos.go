package pod

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOS returns the Pod's quality of service class, determined by its pod-level resources
// if it has any, and otherwise by its containers' resources.
func QOS(p *v1.Pod) v1.PodQOSClass {
	guaranteed, any := true, false
	for _, r := range accountable(p) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			limit, hasLimit := positive(r.Limits, name)
			request, hasRequest := positive(r.Requests, name)
			any = any || hasLimit || hasRequest
			if !hasLimit || hasRequest && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	default:
		return v1.PodQOSBurstable
	}
}

// accountable returns the resources that determine the Pod's class.
func accountable(p *v1.Pod) []v1.ResourceRequirements {
	if own := p.Spec.Resources; own != nil && len(own.Limits)+len(own.Requests) > 0 {
		// A missing request is what the containers request together.
		asked := ownRequests(p)
		return []v1.ResourceRequirements{{Limits: own.Limits, Requests: v1.ResourceList{
			v1.ResourceCPU:    *resource.NewMilliQuantity(asked.MilliCPU, resource.DecimalSI),
			v1.ResourceMemory: *resource.NewQuantity(asked.Memory, resource.BinarySI),
		}}}
	}
	var list []v1.ResourceRequirements
	for _, containers := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			list = append(list, containers[i].Resources)
		}
	}
	return list
}

func positive(list v1.ResourceList, name v1.ResourceName) (resource.Quantity, bool) {
	q, ok := list[name]
	return q, ok && q.Sign() > 0
}

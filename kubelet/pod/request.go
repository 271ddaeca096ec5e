package pod

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Amount is how much of a node's processors and memory something takes: in
// thousandths of a processor and in bytes.
type Amount struct{ MilliCPU, Memory int64 }

// Plus returns the sum.
func (a Amount) Plus(b Amount) Amount { return Amount{a.MilliCPU + b.MilliCPU, a.Memory + b.Memory} }

func (a Amount) most(b Amount) Amount {
	return Amount{max(a.MilliCPU, b.MilliCPU), max(a.Memory, b.Memory)}
}

// Requests returns what the Pod asks for: the sum of what may run at the same
// time, which is its app containers and sidecars, or one of its init containers
// beside the sidecars declared before it. Requests of the Pod itself replace
// that, and its overhead comes on top. A limit without a request is one.
func Requests(p *v1.Pod) Amount {
	var apps, sidecars, inits Amount
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if IsSidecar(c) {
			sidecars = sidecars.Plus(amountOf(&c.Resources))
			inits = inits.most(sidecars)
		} else {
			inits = inits.most(sidecars.Plus(amountOf(&c.Resources)))
		}
	}
	for i := range p.Spec.Containers {
		apps = apps.Plus(amountOf(&p.Spec.Containers[i].Resources))
	}
	total := apps.Plus(sidecars).most(inits)
	if p.Spec.Resources != nil {
		own := amountOf(p.Spec.Resources)
		if _, ok := requested(p.Spec.Resources, v1.ResourceCPU); ok {
			total.MilliCPU = own.MilliCPU
		}
		if _, ok := requested(p.Spec.Resources, v1.ResourceMemory); ok {
			total.Memory = own.Memory
		}
	}
	return total.Plus(Amount{p.Spec.Overhead.Cpu().MilliValue(), p.Spec.Overhead.Memory().Value()})
}

func amountOf(r *v1.ResourceRequirements) Amount {
	var a Amount
	if q, ok := requested(r, v1.ResourceCPU); ok {
		a.MilliCPU = q.MilliValue()
	}
	if q, ok := requested(r, v1.ResourceMemory); ok {
		a.Memory = q.Value()
	}
	return a
}

// requested returns the request for the resource, or the limit when there is no
// request.
func requested(r *v1.ResourceRequirements, name v1.ResourceName) (resource.Quantity, bool) {
	q, ok := r.Requests[name]
	if !ok {
		q, ok = r.Limits[name]
	}
	return q, ok
}

package pod

import (
	"cmp"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Amount is an amount of CPU, in thousandths of a CPU, and of memory, in bytes.
type Amount struct{ MilliCPU, Memory int64 }

// Plus returns the sum.
func (a Amount) Plus(b Amount) Amount { return Amount{a.MilliCPU + b.MilliCPU, a.Memory + b.Memory} }

func (a Amount) most(b Amount) Amount {
	return Amount{max(a.MilliCPU, b.MilliCPU), max(a.Memory, b.Memory)}
}

// Requests returns what the Pod requests: the peak of what may run at the same time,
// which is its app containers and sidecars, or one of its init containers with the
// sidecars declared before it. Pod-level requests replace that; the Pod's overhead is
// added. A limit without a request counts as a request, the Pod's own only if its
// containers request nothing.
func Requests(p *v1.Pod) Amount {
	return ownRequests(p).Plus(amountIn(p.Spec.Overhead))
}

func ownRequests(p *v1.Pod) Amount {
	total := peak(p, AmountOf)
	if own := p.Spec.Resources; own != nil {
		all := AmountOf(own)
		if _, ok := own.Requests[v1.ResourceCPU]; ok || total.MilliCPU == 0 {
			total.MilliCPU = all.MilliCPU
		}
		if _, ok := own.Requests[v1.ResourceMemory]; ok || total.Memory == 0 {
			total.Memory = all.Memory
		}
	}
	return total
}

// Limits returns what the Pod may use at most, computed like Requests. If a container
// has no limit, the result does not bound the Pod: see Bounded. Zero means no limit.
func Limits(p *v1.Pod) Amount {
	total := peak(p, func(r *v1.ResourceRequirements) Amount { return amountIn(r.Limits) })
	if p.Spec.Resources != nil {
		own := amountIn(p.Spec.Resources.Limits)
		total = Amount{cmp.Or(own.MilliCPU, total.MilliCPU), cmp.Or(own.Memory, total.Memory)}
	}
	over := amountIn(p.Spec.Overhead)
	if total.MilliCPU > 0 {
		total.MilliCPU += over.MilliCPU
	}
	if total.Memory > 0 {
		total.Memory += over.Memory
	}
	return total
}

// Bounded reports whether the Pod's use of the resource is limited as a whole:
// by the Pod itself, or by every one of its containers.
func Bounded(p *v1.Pod, name v1.ResourceName) bool {
	if own := p.Spec.Resources; own != nil {
		if _, ok := positive(own.Limits, name); ok {
			return true
		}
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if _, ok := positive(list[i].Resources.Limits, name); !ok {
				return false
			}
		}
	}
	return true
}

// peak returns the most that the Pod's containers take at one time.
func peak(p *v1.Pod, of func(*v1.ResourceRequirements) Amount) Amount {
	var running, inits Amount
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if IsSidecar(c) {
			running = running.Plus(of(&c.Resources))
			inits = inits.most(running)
		} else {
			inits = inits.most(running.Plus(of(&c.Resources)))
		}
	}
	for i := range p.Spec.Containers {
		running = running.Plus(of(&p.Spec.Containers[i].Resources))
	}
	return running.most(inits)
}

func amountIn(list v1.ResourceList) Amount {
	return Amount{list.Cpu().MilliValue(), list.Memory().Value()}
}

// AmountOf returns what r requests: the limit if there is no request.
func AmountOf(r *v1.ResourceRequirements) Amount {
	var a Amount
	if q, ok := requested(r, v1.ResourceCPU); ok {
		a.MilliCPU = q.MilliValue()
	}
	if q, ok := requested(r, v1.ResourceMemory); ok {
		a.Memory = q.Value()
	}
	return a
}

// requested returns the request for the resource, or the limit if there is none.
func requested(r *v1.ResourceRequirements, name v1.ResourceName) (resource.Quantity, bool) {
	q, ok := r.Requests[name]
	if !ok {
		q, ok = r.Limits[name]
	}
	return q, ok
}

package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A resize has three stages. What the spec asks for is *desired*. What the node has
// granted is *allocated*: it is recorded in the container statuses (allocatedResources,
// and resources for everything else), and replaces the spec in every decision until the
// desired resources are granted (Settled). What a running instance was given is
// *actuated*: it is in an annotation of the instance from its creation, and in its
// recorded status after that. What runtimes report is not used: they round, and older
// ones report nothing.

// ResizePending says that the resources in the spec have not been granted.
type ResizePending struct {
	// Reason is v1.PodReasonDeferred if other Pods have the room at the moment, and
	// otherwise v1.PodReasonInfeasible.
	Reason, Message string
}

// Update changes the resources of a running instance.
type Update struct {
	ID, Name string
	// From and To are the current and the new resources.
	From, To v1.ResourceRequirements
}

// String describes the change, for logs.
func (u Update) String() string { return fmt.Sprintf("%s to %s", u.ID, quantities(&u.To)) }

func quantities(r *v1.ResourceRequirements) string {
	var parts []string
	for kind, list := range map[string]v1.ResourceList{"request": r.Requests, "limit": r.Limits} {
		for name, q := range list {
			parts = append(parts, fmt.Sprintf("%s %s %s", kind, name, q.String()))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// Resized reports whether the spec asks for other resources than were allocated. A
// container without a record does not count.
func Resized(p *v1.Pod, was *v1.PodStatus) bool {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if allocation(&list[i], was) != nil {
				return true
			}
		}
	}
	return false
}

// Settled returns the Pod with the resources that are allocated by the recorded status,
// where the spec differs. It shares memory with p.
func Settled(p *v1.Pod, was *v1.PodStatus) *v1.Pod {
	if !Resized(p, was) {
		return p
	}
	next := *p
	for _, list := range []*[]v1.Container{&next.Spec.InitContainers, &next.Spec.Containers} {
		*list = slices.Clone(*list)
		for i := range *list {
			if r := allocation(&(*list)[i], was); r != nil {
				(*list)[i].Resources = *r
			}
		}
	}
	return &next
}

// allocation returns what is allocated to the container, or nil if that equals its
// spec. Only requests need room on the node, so a change of limits alone is never
// rejected.
func allocation(c *v1.Container, was *v1.PodStatus) *v1.ResourceRequirements {
	for _, list := range Statuses(was) {
		for i := range list {
			s := &list[i]
			if s.Name == c.Name && s.Resources != nil && !equality.Semantic.DeepEqual(c.Resources.Requests, s.AllocatedResources) {
				return s.Resources
			}
		}
	}
	return nil
}

// RecallResources fills in what the observed instances were given since their creation:
// updated is what this process gave them, by container ID, and the recorded status has
// what earlier processes gave.
func RecallResources(was *v1.PodStatus, updated map[string]v1.ResourceRequirements, seen *Observation) {
	recorded := map[string]*v1.ResourceRequirements{}
	for _, list := range Statuses(was) {
		for i := range list {
			if s := &list[i]; s.State.Running != nil && s.Resources != nil {
				_, id, _ := strings.Cut(s.ContainerID, "://")
				recorded[id] = s.Resources
			}
		}
	}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if r, ok := updated[c.ID]; ok {
			c.Resources = &r
		} else if r := recorded[c.ID]; r != nil {
			c.Resources = r
		}
	}
}

// Resizing reports whether the instance, of an app container or sidecar, runs with
// resources that differ from its spec and can be changed while it runs.
func Resizing(p *v1.Pod, seen *Container) bool {
	c := Find(p, seen.Name)
	if c == nil || seen.State != Running || seen.Resources == nil || !isApp(p, c.Name) && !IsSidecar(c) {
		return false
	}
	return len(differing(seen.Resources, &c.Resources)) > 0
}

// differing returns which of CPU and memory differ.
func differing(a, b *v1.ResourceRequirements) []v1.ResourceName {
	var names []v1.ResourceName
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		askedA, okA := requested(a, name)
		askedB, okB := requested(b, name)
		limitA, limitedA := a.Limits[name]
		limitB, limitedB := b.Limits[name]
		if okA != okB || limitedA != limitedB || askedA.Cmp(askedB) != 0 || limitA.Cmp(limitB) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// resizeRestarts reports whether the resize policy requires a restart of the instance.
func resizeRestarts(p *v1.Pod, seen *Container, c *v1.Container) bool {
	if !Resizing(p, seen) {
		return false
	}
	names := differing(seen.Resources, &c.Resources)
	return slices.ContainsFunc(c.ResizePolicy, func(policy v1.ContainerResizePolicy) bool {
		return policy.RestartPolicy == v1.RestartContainer && slices.Contains(names, policy.ResourceName)
	})
}

// resize plans the changes of the resources of instances that keep running.
func resize(v *View, p *Plan, killed map[string]bool) {
	for i := range v.Seen.Containers {
		seen := &v.Seen.Containers[i]
		if killed[seen.Name] || !Resizing(v.Pod, seen) {
			continue
		}
		if b, ok := v.Resizes[seen.ID]; ok && v.Now.Before(b.Until) {
			p.again(b.Until)
			continue
		}
		p.Update = append(p.Update, Update{ID: seen.ID, Name: seen.Name, From: *seen.Resources, To: Find(v.Pod, seen.Name).Resources})
	}
}

// Widest returns the Pod with the larger of its running instances' current and new
// resources: what its cgroup must allow while they are being changed. It shares memory
// with p.
func Widest(p *v1.Pod, seen *Observation) *v1.Pod {
	next := *p
	for _, list := range []*[]v1.Container{&next.Spec.InitContainers, &next.Spec.Containers} {
		*list = slices.Clone(*list)
		for i := range *list {
			c := &(*list)[i]
			if latest := seen.Latest(c.Name); latest != nil && latest.State == Running && latest.Resources != nil {
				c.Resources = wider(latest.Resources, &c.Resources)
			}
		}
	}
	return &next
}

// wider returns the larger quantities of both; what either does not limit is not
// limited.
func wider(a, b *v1.ResourceRequirements) v1.ResourceRequirements {
	out := v1.ResourceRequirements{Requests: maps.Clone(b.Requests), Limits: v1.ResourceList{}}
	if out.Requests == nil {
		out.Requests = v1.ResourceList{}
	}
	for name, q := range a.Requests {
		out.Requests[name] = larger(q, out.Requests[name])
	}
	for name, q := range a.Limits {
		if other, ok := b.Limits[name]; ok {
			out.Limits[name] = larger(q, other)
		}
	}
	return out
}

func larger(a, b resource.Quantity) resource.Quantity {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}

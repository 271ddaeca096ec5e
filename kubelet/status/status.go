// Package status computes a Pod's v1.PodStatus from what is known of it. It is a pure
// function: phase, conditions and container states follow from the view, and what must
// be stable over time (transition times, start time, addresses of a terminated Pod) is
// taken from the status as last recorded.
package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Node is what a status says about the node.
type Node struct {
	IPs     []string // the node's addresses, the primary first
	Runtime string   // the prefix of container ids: "containerd", "nodekit"
}

// Compute returns the status that follows from the view. It never changes v, and the
// result shares no memory with it.
func Compute(v *pod.View, node Node) v1.PodStatus {
	was := v.Was.DeepCopy()
	s := v1.PodStatus{
		Phase:              pod.Phase(v),
		Conditions:         was.Conditions,
		StartTime:          was.StartTime,
		QOSClass:           was.QOSClass,
		ObservedGeneration: v.Pod.Generation,
		Reason:             was.Reason,
		Message:            was.Message,
	}
	if s.StartTime == nil && (!v.Admitting || v.Failed != nil) {
		s.StartTime = &metav1.Time{Time: v.Now}
	}
	if s.QOSClass == "" {
		s.QOSClass = pod.QOS(v.Pod)
	}
	if v.Failed != nil {
		s.Reason, s.Message = v.Failed.Reason, v.Failed.Message
	}
	addresses(v, node, was, &s)
	c := &containers{view: v, node: node, was: was}
	s.InitContainerStatuses = c.list(v.Pod.Spec.InitContainers, was.InitContainerStatuses)
	s.ContainerStatuses = c.list(v.Pod.Spec.Containers, was.ContainerStatuses)
	for i := range v.Pod.Spec.EphemeralContainers {
		e := pod.Common(&v.Pod.Spec.EphemeralContainers[i])
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, c.ephemeral(e, find(was.EphemeralContainerStatuses, e.Name)))
	}
	conditions(v, &s)
	return s
}

func addresses(v *pod.View, node Node, was, s *v1.PodStatus) {
	if len(node.IPs) > 0 {
		s.HostIP = node.IPs[0]
		for _, ip := range node.IPs {
			s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
		}
	}
	var ips []string
	if sandbox := v.Seen.Sandbox(); sandbox != nil && sandbox.Ready {
		ips = sandbox.IPs
		if v.Pod.Spec.HostNetwork && len(ips) == 0 {
			ips = node.IPs
		}
	}
	if len(ips) == 0 { // a terminated Pod keeps its addresses
		s.PodIP, s.PodIPs = was.PodIP, slices.Clone(was.PodIPs)
		return
	}
	s.PodIP = ips[0]
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
}

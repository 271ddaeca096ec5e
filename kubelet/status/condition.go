package status

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// conditions recomputes the kubelet's conditions in s. It keeps the conditions of
// others, and the transition time of those that do not change.
func conditions(v *pod.View, s *v1.PodStatus) {
	terminal := pod.Terminal(s.Phase)
	set := func(kind v1.PodConditionType, ok bool, reason, message string) {
		c := v1.PodCondition{Type: kind, Status: v1.ConditionTrue, ObservedGeneration: v.Pod.Generation}
		if !ok {
			c.Status, c.Reason, c.Message = v1.ConditionFalse, reason, message
		}
		put(&s.Conditions, c, metav1.NewTime(v.Now))
	}
	set(v1.PodScheduled, true, "", "")

	sandbox := v.Seen.Sandbox()
	reason, message := "", ""
	if v.Wait != nil {
		reason, message = v.Wait.Reason, v.Wait.Error()
	}
	set(v1.PodReadyToStartContainers, sandbox != nil && sandbox.Ready, reason, message)

	missing := unmet(s.InitContainerStatuses)
	done := initialized(v)
	switch {
	case done && s.Phase == v1.PodSucceeded:
		put(&s.Conditions, v1.PodCondition{
			Type: v1.PodInitialized, Status: v1.ConditionTrue, Reason: "PodCompleted",
			ObservedGeneration: v.Pod.Generation,
		}, metav1.NewTime(v.Now))
	default:
		set(v1.PodInitialized, done, "ContainersNotInitialized", "containers with incomplete status: "+missing)
	}

	var notReady []v1.ContainerStatus
	for i, c := range s.InitContainerStatuses {
		if pod.IsSidecar(&v.Pod.Spec.InitContainers[i]) {
			notReady = append(notReady, c)
		}
	}
	notReady = append(notReady, s.ContainerStatuses...)
	missing = unmet(notReady)
	why, detail := "ContainersNotReady", "containers with unready status: "+missing
	switch s.Phase {
	case v1.PodSucceeded:
		why, detail = "PodCompleted", ""
	case v1.PodFailed:
		why, detail = "PodFailed", ""
	}
	ready := missing == "[]" && !terminal
	set(v1.ContainersReady, ready, why, detail)
	if ready {
		ready, why, detail = gates(v, s)
	}
	set(v1.PodReady, ready, why, detail)
	resizes(v, s)
}

// resizes reports the state of a resource change. Both conditions exist only while they
// are true.
func resizes(v *pod.View, s *v1.PodStatus) {
	show := func(kind v1.PodConditionType, ok bool, reason, message string) {
		if !ok {
			s.Conditions = slices.DeleteFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == kind })
			return
		}
		put(&s.Conditions, v1.PodCondition{
			Type: kind, Status: v1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: v.Pod.Generation,
		}, metav1.NewTime(v.Now))
	}
	var pending pod.ResizePending
	if v.Pending != nil {
		pending = *v.Pending
	}
	show(v1.PodResizePending, v.Pending != nil, pending.Reason, pending.Message)
	running, reason, message := false, "", ""
	for i := range v.Seen.Containers {
		c := &v.Seen.Containers[i]
		if v.Ending == nil && pod.Resizing(v.Pod, c) {
			running = true
			if b, failed := v.Resizes[c.ID]; failed {
				reason, message = v1.PodReasonError, b.Message
			}
		}
	}
	show(v1.PodResizeInProgress, running, reason, message)
}

// gates evaluates the Pod's readiness gates.
func gates(v *pod.View, s *v1.PodStatus) (ready bool, reason, message string) {
	for _, g := range v.Pod.Spec.ReadinessGates {
		if c := condition(s.Conditions, g.ConditionType); c == nil || c.Status != v1.ConditionTrue {
			return false, "ReadinessGatesNotReady", "the condition " + string(g.ConditionType) + " is not True"
		}
	}
	return true, "", ""
}

// unmet names the containers that are not ready: "[a b]".
func unmet(list []v1.ContainerStatus) string {
	var names []string
	for _, c := range list {
		if !c.Ready {
			names = append(names, c.Name)
		}
	}
	return "[" + strings.Join(names, " ") + "]"
}

func condition(list []v1.PodCondition, kind v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

func put(list *[]v1.PodCondition, c v1.PodCondition, now metav1.Time) {
	c.LastTransitionTime = now
	old := condition(*list, c.Type)
	if old == nil {
		*list = append(*list, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime, c.LastProbeTime = old.LastTransitionTime, old.LastProbeTime
	}
	*old = c
}

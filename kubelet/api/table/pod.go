package table

import (
	"fmt"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func podCells(p *v1.Pod, now time.Time) []any {
	ready, total, restarts, last := 0, len(p.Spec.Containers), 0, time.Time{}
	for i := range p.Spec.InitContainers {
		if sidecar(&p.Spec.InitContainers[i]) {
			total++
		}
	}
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		count(s, &restarts, &last)
		if s.Ready && sidecar(specOf(p, s.Name)) {
			ready++
		}
	}
	for i := range p.Status.ContainerStatuses {
		s := &p.Status.ContainerStatuses[i]
		count(s, &restarts, &last)
		if s.Ready && s.State.Running != nil {
			ready++
		}
	}
	again := strconv.Itoa(restarts)
	if restarts > 0 && !last.IsZero() {
		again = fmt.Sprintf("%d (%s ago)", restarts, since(last, now))
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", ready, total), podStatus(p), again, age(p, now),
		orNone(p.Status.PodIP), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), gates(p),
	}
}

func sidecar(c *v1.Container) bool {
	return c != nil && c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

func specOf(p *v1.Pod, name string) *v1.Container {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return &p.Spec.InitContainers[i]
		}
	}
	return nil
}

func count(s *v1.ContainerStatus, restarts *int, last *time.Time) {
	*restarts += int(s.RestartCount)
	if t := s.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(*last) {
		*last = t.FinishedAt.Time
	}
}

// podStatus returns the one word that says most about a Pod: what its containers wait
// for, or how they ended, rather than its phase.
func podStatus(p *v1.Pod) string {
	word := string(p.Status.Phase)
	if p.Status.Reason != "" {
		word = p.Status.Reason
	}
	if initial, busy := initStatus(p); busy {
		word = initial
	} else {
		word = appStatus(p, word)
	}
	if p.DeletionTimestamp != nil {
		if pod.Terminal(p.Status.Phase) {
			return word
		}
		return "Terminating"
	}
	return word
}

// initStatus returns the status of the first init container that is not done.
func initStatus(p *v1.Pod) (word string, busy bool) {
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		t, w := s.State.Terminated, s.State.Waiting
		switch {
		case t != nil && t.ExitCode == 0, sidecar(specOf(p, s.Name)) && s.Started != nil && *s.Started:
			continue
		case t != nil:
			return "Init:" + ending(t), true
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			return "Init:" + w.Reason, true
		}
		return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers)), true
	}
	return "", false
}

func appStatus(p *v1.Pod, word string) string {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		s := &p.Status.ContainerStatuses[i]
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "":
			word = s.State.Waiting.Reason
		case s.State.Terminated != nil:
			word = ending(s.State.Terminated)
		case s.Ready && s.State.Running != nil:
			running = true
		}
	}
	if word == "Completed" && running {
		if ready(p) {
			return "Running"
		}
		return "NotReady"
	}
	return word
}

func ending(t *v1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	default:
		return fmt.Sprintf("ExitCode:%d", t.ExitCode)
	}
}

func ready(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// gates counts the readiness gates that are true.
func gates(p *v1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	open := 0
	for _, g := range p.Spec.ReadinessGates {
		for _, c := range p.Status.Conditions {
			if c.Type == g.ConditionType && c.Status == v1.ConditionTrue {
				open++
			}
		}
	}
	return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
}

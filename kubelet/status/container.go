package status

import (
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// containers computes container statuses.
type containers struct {
	view *pod.View
	node Node
	was  *v1.PodStatus
}

func (c *containers) list(specs []v1.Container, was []v1.ContainerStatus) []v1.ContainerStatus {
	var list []v1.ContainerStatus
	for i := range specs {
		list = append(list, c.one(&specs[i], find(was, specs[i].Name)))
	}
	return list
}

func find(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return &v1.ContainerStatus{}
}

// one computes the status of one container.
func (c *containers) one(spec *v1.Container, was *v1.ContainerStatus) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: new(bool)}
	latest := c.view.Seen.Latest(spec.Name)
	c.resources(&s, spec, latest)
	if latest == nil {
		s.RestartCount, s.LastTerminationState = was.RestartCount, was.LastTerminationState
		s.State.Waiting = c.waiting(spec)
		return s
	}
	s.RestartCount = max(int32(latest.Attempt), was.RestartCount)
	s.ContainerID = c.node.Runtime + "://" + latest.ID
	s.ImageID = latest.ImageID
	if latest.Image != "" {
		s.Image = latest.Image
	}
	previous := c.view.Seen.Previous(spec.Name)
	switch {
	case latest.State == pod.Running:
		s.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(latest.StartedAt)}
		probed := c.view.Probed(latest)
		*s.Started = spec.StartupProbe == nil || probed.Startup == pod.Success
		s.Ready = *s.Started && (spec.ReadinessProbe == nil || probed.Readiness == pod.Success)
	case latest.State == pod.Exited && c.restarts(spec, latest):
		s.State.Waiting = c.restarting(spec, latest)
		previous = latest
	case latest.State == pod.Exited:
		s.State.Terminated = c.terminated(latest)
		s.Ready = pod.IsInit(c.view.Pod, spec.Name) && !pod.IsSidecar(spec) && latest.ExitCode == 0
	case latest.State == pod.Unknown && was.State.Running != nil && was.ContainerID == s.ContainerID:
		// It did run, and that must be remembered: if the runtime loses its record as
		// well, the container has ended and was not merely created.
		s.State.Running = was.State.Running
	default: // created and not yet started, or unknown
		s.State.Waiting = c.waiting(spec)
	}
	if previous != nil && previous.State == pod.Exited {
		s.LastTerminationState.Terminated = c.terminated(previous)
	} else if previous == nil && int32(latest.Attempt) == was.RestartCount {
		s.LastTerminationState = was.LastTerminationState
	}
	return s
}

// resources reports what is allocated to the container, and what its instance has:
// until it runs, what it will be given. Before the Pod is admitted, that is nothing.
// The result is also the record that a resize relies on (pod.Settled,
// pod.RecallResources).
func (c *containers) resources(s *v1.ContainerStatus, spec *v1.Container, latest *pod.Container) {
	if c.view.Admitting {
		return
	}
	s.AllocatedResources = spec.Resources.Requests.DeepCopy()
	s.Resources = spec.Resources.DeepCopy()
	if latest != nil && latest.State == pod.Running && latest.Resources != nil {
		s.Resources = latest.Resources.DeepCopy()
	}
}

// ephemeral computes the status of an ephemeral container, which is neither
// ready nor started: nothing waits for it.
func (c *containers) ephemeral(spec *v1.Container, was *v1.ContainerStatus) v1.ContainerStatus {
	s := c.one(spec, was)
	s.Ready, s.Started, s.Resources, s.AllocatedResources = false, nil, nil, nil
	if w := s.State.Waiting; w != nil && w.Reason == "PodInitializing" {
		w.Reason = "ContainerCreating" // it does not wait for init containers
	}
	return s
}

// restarts reports whether another instance will follow the ended one.
func (c *containers) restarts(spec *v1.Container, latest *pod.Container) bool {
	v := c.view
	if v.Ending != nil || v.Failed != nil || v.Finished() {
		return false
	}
	if c.renewed(spec, latest) {
		return true
	}
	if !v.Restarts(spec, latest) {
		return false
	}
	return !pod.IsInit(c.view.Pod, spec.Name) || pod.IsSidecar(spec) || !appStarted(v)
}

// renewed reports whether an init container that has ended runs again because the Pod
// has a new sandbox.
func (c *containers) renewed(spec *v1.Container, latest *pod.Container) bool {
	s := c.view.Seen.Sandbox()
	if s == nil || !s.Ready || s.ID == latest.SandboxID || !pod.IsInit(c.view.Pod, spec.Name) || pod.IsSidecar(spec) {
		return false
	}
	for _, other := range c.view.Seen.Containers {
		if other.SandboxID == s.ID && !pod.IsInit(c.view.Pod, other.Name) && pod.Ephemeral(c.view.Pod, other.Name) == nil {
			return false
		}
	}
	return true
}

func (c *containers) restarting(spec *v1.Container, latest *pod.Container) *v1.ContainerStateWaiting {
	if _, blocked := c.view.Blocks[spec.Name]; blocked {
		return c.waiting(spec)
	}
	if wait := pod.RestartAt(latest).Sub(c.view.Now); wait > 0 && !c.renewed(spec, latest) {
		return &v1.ContainerStateWaiting{
			Reason:  "CrashLoopBackOff",
			Message: "back-off " + latest.Delay.Round(time.Second).String() + " restarting container " + spec.Name,
		}
	}
	return c.waiting(spec)
}

// waiting returns why a container has not been started.
func (c *containers) waiting(spec *v1.Container) *v1.ContainerStateWaiting {
	if b, ok := c.view.Blocks[spec.Name]; ok {
		return &v1.ContainerStateWaiting{Reason: b.Reason, Message: b.Message}
	}
	if w := c.view.Wait; w != nil {
		return &v1.ContainerStateWaiting{Reason: "ContainerCreating", Message: w.Error()}
	}
	if len(c.view.Pod.Spec.InitContainers) > 0 && !initialized(c.view) {
		return &v1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func (c *containers) terminated(seen *pod.Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode: seen.ExitCode, Reason: seen.Reason, Message: seen.Message,
		StartedAt: metav1.NewTime(seen.StartedAt), FinishedAt: metav1.NewTime(seen.FinishedAt),
		ContainerID: c.node.Runtime + "://" + seen.ID,
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if t.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	return t
}

func appStarted(v *pod.View) bool {
	for i := range v.Pod.Spec.Containers {
		if v.Seen.Latest(v.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// initialized reports whether every init container has done its part.
func initialized(v *pod.View) bool {
	if appStarted(v) {
		return true
	}
	for i := range v.Pod.Spec.InitContainers {
		spec := &v.Pod.Spec.InitContainers[i]
		latest := v.Seen.Latest(spec.Name)
		switch {
		case latest == nil:
			return false
		case pod.IsSidecar(spec):
			if latest.State != pod.Running || spec.StartupProbe != nil && v.Probed(latest).Startup != pod.Success {
				return false
			}
		case latest.State != pod.Exited || latest.ExitCode != 0:
			return false
		}
	}
	return true
}

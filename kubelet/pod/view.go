package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Outcome is the result of a probe.
type Outcome int

// The results. Pending is the state until enough probes have run.
const (
	Pending Outcome = iota
	Success
	Failure
)

// Probed holds the results of the probes of one container instance. A probe that the
// spec does not have counts as Success.
type Probed struct {
	Startup, Liveness, Readiness Outcome
	// Message is the output of the last failure.
	Message string
}

// Block says that the last attempt to start a container failed.
type Block struct {
	Reason, Message string    // for the container's waiting state
	Until           time.Time // the earliest next attempt
}

// Ending says that the Pod is to terminate.
type Ending struct {
	// Deadline is the end of its grace period, by the clock of Now. It only ever moves
	// to an earlier time.
	Deadline time.Time
	// Force denies containers the minimum grace period.
	Force bool
}

// View is everything known of a Pod at one moment: the input of every pure decision
// about it.
type View struct {
	Pod *v1.Pod
	// Was is the status as last recorded. Its terminal phase is final, and it remembers
	// containers that the runtime has lost the record of.
	Was    *v1.PodStatus
	Seen   *Observation
	Probes map[string]Probed // by container id; a missing one means no result yet
	Blocks map[string]Block  // by container name
	// Resizes has an entry, by container ID, for each running instance whose last
	// attempt to change its resources failed.
	Resizes map[string]Block
	// Pending is set while the spec asks for resources that are not granted. Pod has
	// the granted ones.
	Pending *ResizePending
	// Admitting is set until the Pod is admitted to the node: nothing of it is started.
	Admitting bool
	// Wait is what the Pod waits for, or nil.
	Wait *WaitError
	// Failed is why the Pod can never run, or not any longer, or nil.
	Failed *RejectError
	// Ending is nil unless the Pod is to terminate.
	Ending *Ending
	Now    time.Time
}

// Finished reports whether the recorded phase is final.
func (v *View) Finished() bool {
	return Terminal(v.Was.Phase)
}

// Probed returns the probe results of an instance.
func (v *View) Probed(c *Container) Probed { return v.Probes[c.ID] }

// IsSidecar reports whether an init container is a sidecar: one that runs
// beside the app containers.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Find returns the spec of the named container, or nil. It includes init and ephemeral
// containers.
func Find(p *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	if e := Ephemeral(p, name); e != nil {
		return Common(e)
	}
	return nil
}

// Ephemeral returns the named ephemeral container, or nil.
func Ephemeral(p *v1.Pod, name string) *v1.EphemeralContainer {
	for i := range p.Spec.EphemeralContainers {
		if e := &p.Spec.EphemeralContainers[i]; e.Name == name {
			return e
		}
	}
	return nil
}

// Common returns the fields that an ephemeral container shares with other containers.
// It shares e's memory.
func Common(e *v1.EphemeralContainer) *v1.Container {
	return (*v1.Container)(&e.EphemeralContainerCommon)
}

// Statuses returns the statuses of all containers: init, app, ephemeral. The
// lists share the status's memory.
func Statuses(s *v1.PodStatus) [][]v1.ContainerStatus {
	return [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses}
}

// isApp reports whether the name is that of an app container.
func isApp(p *v1.Pod, name string) bool {
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return true
		}
	}
	return false
}

// IsInit reports whether the name is that of an init container, including sidecars.
func IsInit(p *v1.Pod, name string) bool {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

// appCreated reports whether an app container was ever created in the sandbox.
// From then on init containers do not run again there.
func (v *View) appCreated(sandbox string) bool {
	for _, c := range v.Seen.Containers {
		if c.SandboxID == sandbox && isApp(v.Pod, c.Name) {
			return true
		}
	}
	return false
}

// anyApp reports whether an app container was ever created, in any sandbox.
func (v *View) anyApp() bool {
	for i := range v.Pod.Spec.Containers {
		if v.Seen.Latest(v.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// Names returns the names of all the Pod's containers, in the order of the spec's
// lists: app, init, ephemeral.
func Names(p *v1.Pod) []string {
	var names []string
	for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			names = append(names, list[i].Name)
		}
	}
	for i := range p.Spec.EphemeralContainers {
		names = append(names, p.Spec.EphemeralContainers[i].Name)
	}
	return names
}

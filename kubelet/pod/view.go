package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Outcome is the verdict of a probe.
type Outcome int

// The verdicts. Pending is the state before enough probes ran.
const (
	Pending Outcome = iota
	Success
	Failure
)

// Probed is what the probes of one container instance say. A probe that the
// spec does not have says Success.
type Probed struct {
	Startup, Liveness, Readiness Outcome
	// Message is the last failure's output.
	Message string
}

// Block says that the last attempt to start a container did not succeed.
type Block struct {
	Reason, Message string    // for the container's waiting state
	Until           time.Time // the earliest next attempt
}

// Ending says that the Pod shall end.
type Ending struct {
	// Deadline is when its grace is over, by the clock of Now. It only ever moves
	// forward to an earlier time.
	Deadline time.Time
	// Force lets no container have the minimum grace.
	Force bool
}

// View is all that is known of a Pod at one moment: the input of every pure
// decision about it.
type View struct {
	Pod *v1.Pod
	// Was is the status as last recorded. Its terminal phase is final, and it
	// remembers containers of which the runtime has lost the record.
	Was    *v1.PodStatus
	Seen   *Observation
	Probes map[string]Probed // by container id; none means no verdict yet
	Blocks map[string]Block  // by container name
	// Resizes says of running instances, by container id, that the last attempt to
	// change their resources did not succeed.
	Resizes map[string]Block
	// Pending is set while the spec asks for resources that are not granted. Pod
	// has those that are.
	Pending *ResizePending
	// Admitting is set while the Pod has not been admitted to the node: nothing of
	// it is started.
	Admitting bool
	// Wait is what the whole Pod waits for, or nil.
	Wait *WaitError
	// Failed is why the Pod can never run, or run on, or nil.
	Failed *RejectError
	// Ending is nil while the Pod shall run.
	Ending *Ending
	Now    time.Time
}

// Finished reports whether the recorded phase is final.
func (v *View) Finished() bool {
	return Terminal(v.Was.Phase)
}

// Probed returns the verdicts for an instance.
func (v *View) Probed(c *Container) Probed { return v.Probes[c.ID] }

// IsSidecar reports whether an init container is a sidecar: one that runs
// beside the app containers.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Find returns the spec of the named container, init and ephemeral containers
// included, or nil.
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

// Common returns what an ephemeral container has in common with others. It
// shares e's memory.
func Common(e *v1.EphemeralContainer) *v1.Container {
	return (*v1.Container)(&e.EphemeralContainerCommon)
}

// Statuses returns the statuses of all containers: init, app, ephemeral. The
// lists share the status's memory.
func Statuses(s *v1.PodStatus) [][]v1.ContainerStatus {
	return [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses}
}

// isApp reports whether the name is of an app container.
func isApp(p *v1.Pod, name string) bool {
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return true
		}
	}
	return false
}

// IsInit reports whether the name is of an init container, sidecars included.
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

// Names returns the names of all the Pod's containers: those of its spec's
// lists in the order app, init, ephemeral.
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

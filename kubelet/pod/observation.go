package pod

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// State is the state of a container, as reported by the runtime.
type State int

// The states of a container in the CRI.
const (
	Unknown State = iota
	Created
	Running
	Exited
)

// Sandbox is a sandbox of the Pod, as reported by the runtime.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	IPs       []string // the primary address first; none with host networking
}

// Container is one instance of a container, as reported by the runtime.
type Container struct {
	ID, Name, SandboxID string
	Attempt             uint32 // the restart count when it was created
	Hash                string // Hash of the spec that it was created from
	State               State
	// Image is the reference that it was created from; ImageID is the image's ID.
	Image, ImageID                   string
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	Reason, Message                  string
	LogPath                          string
	// Delay is the restart delay that was in force when it was created.
	Delay time.Duration
	// Resources are the resources that it was given, nil if unknown.
	Resources *v1.ResourceRequirements
}

// Observation is what the runtime reported of one Pod at one moment. Both lists are in
// the order of Sort.
type Observation struct {
	Sandboxes  []Sandbox
	Containers []Container
}

// Sort sorts both lists: what is in use first, then the newest, by attempt and then by
// creation. An instance that is newer than the one in use, or was only created although
// another of its attempt ran, comes from a call of a node that was killed: the runtime
// carried it out late.
func (o *Observation) Sort() {
	used := map[string]int{}
	for i := range o.Containers {
		used[o.Containers[i].SandboxID] += o.Containers[i].active()
	}
	slices.SortStableFunc(o.Sandboxes, func(a, b Sandbox) int {
		return cmp.Or(cmp.Compare(used[b.ID], used[a.ID]), cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
	slices.SortStableFunc(o.Containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(b.active(), a.active()), cmp.Compare(b.Attempt, a.Attempt), cmp.Compare(b.ran(), a.ran()), b.CreatedAt.Compare(a.CreatedAt))
	})
}

// active returns 1 for an instance that runs, or may run, and 0 otherwise.
func (c *Container) active() int {
	if c.State == Running || c.State == Unknown {
		return 1
	}
	return 0
}

// ran returns 0 for an instance that was only created, and 1 otherwise.
func (c *Container) ran() int {
	if c.State == Created {
		return 0
	}
	return 1
}

// Sandbox returns the sandbox in use, otherwise the newest, or nil.
func (o *Observation) Sandbox() *Sandbox {
	if len(o.Sandboxes) == 0 {
		return nil
	}
	return &o.Sandboxes[0]
}

// Latest returns the active instance of the container, otherwise the newest, or nil.
func (o *Observation) Latest(name string) *Container { return o.nth(name, 0) }

// Previous returns the instance before the newest, or nil.
func (o *Observation) Previous(name string) *Container { return o.nth(name, 1) }

func (o *Observation) nth(name string, n int) *Container {
	for i := range o.Containers {
		if o.Containers[i].Name != name {
			continue
		}
		if n == 0 {
			return &o.Containers[i]
		}
		n--
	}
	return nil
}

// Active returns the instances that run, or may run.
func (o *Observation) Active() []Container {
	var active []Container
	for _, c := range o.Containers {
		if c.active() == 1 {
			active = append(active, c)
		}
	}
	return active
}

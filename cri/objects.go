package cri

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// everybody is the weight of a sandbox's gate when one call wants it alone.
const everybody = 1 << 20

// shortestID is how many characters of an id a person must type at least.
const shortestID = 4

// sandbox is a sandbox in memory. What cur points to is never modified: a
// change replaces it, so that reads need no lock and see whole states.
type sandbox struct {
	// gate orders the calls that change the sandbox or its containers:
	// everybody for a call alone, 1 for a StopContainer.
	gate *semaphore.Weighted
	cur  atomic.Pointer[Sandbox]
	// containers is guarded by the index.
	containers map[string]*container
}

func newSandbox(s *Sandbox) *sandbox {
	m := &sandbox{gate: semaphore.NewWeighted(everybody), containers: map[string]*container{}}
	m.cur.Store(s)
	return m
}

// container is a container in memory; cur is as in sandbox.
type container struct {
	sandbox *sandbox
	cur     atomic.Pointer[Container]
	// gate lets one StopContainer at a time through to the author.
	gate *semaphore.Weighted
	// ended is closed when the container has its Exit.
	ended chan struct{}

	// mu is held while a change is persisted and published.
	mu sync.Mutex
	// starting is true while StartContainer runs: an exit that is reported
	// meanwhile waits in early until the start is published.
	starting bool
	early    *Exit
	// stopBy is the earliest deadline that anybody set for the container's
	// end; interrupt, when not nil, ends the author's StopContainer.
	stopBy    time.Time
	interrupt context.CancelFunc
}

func newContainer(s *sandbox, c *Container) *container {
	m := &container{sandbox: s, gate: semaphore.NewWeighted(1), ended: make(chan struct{})}
	m.cur.Store(c)
	if c.Exit != nil {
		close(m.ended)
	}
	return m
}

// copy returns a Container for the author to change, with the sandbox as it is
// now.
func (c *container) copy() *Container {
	dup := *c.cur.Load()
	dup.Sandbox = c.sandbox.copy()
	return &dup
}

func (s *sandbox) copy() *Sandbox {
	dup := *s.cur.Load()
	dup.IPs = slices.Clone(dup.IPs)
	return &dup
}

// index finds objects. Every list and every event sees it under its lock.
type index struct {
	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
}

func newIndex() *index {
	return &index{sandboxes: map[string]*sandbox{}, containers: map[string]*container{}}
}

// sandbox and container find by id or unique prefix; nil when there is none.
func (x *index) sandbox(id string) (*sandbox, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return find("sandbox", x.sandboxes, id)
}

func (x *index) container(id string) (*container, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return find("container", x.containers, id)
}

func find[T any](kind string, all map[string]*T, id string) (found *T, err error) {
	if id == "" {
		return nil, ErrInvalid.Errorf("the request has no %s id", kind)
	}
	if exact := all[id]; exact != nil {
		return exact, nil
	}
	for full, candidate := range all {
		if len(id) < shortestID || !strings.HasPrefix(full, id) {
			continue
		}
		if found != nil {
			return nil, ErrInvalid.Errorf("%s %q: several ids begin so", kind, id)
		}
		found = candidate
	}
	return found, nil
}

// byPod returns the sandbox of the Pod uid and attempt, or nil.
func (x *index) byPod(meta *runtimeapi.PodSandboxMetadata) *sandbox {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.sandboxes {
		m := s.cur.Load().Config.GetMetadata()
		if m.GetUid() == meta.GetUid() && m.GetAttempt() == meta.GetAttempt() {
			return s
		}
	}
	return nil
}

// byName returns the sandbox's container of that name and attempt, or nil.
func (x *index) byName(s *sandbox, meta *runtimeapi.ContainerMetadata) *container {
	for _, c := range x.containersOf(s) {
		m := c.cur.Load().Config.GetMetadata()
		if m.GetName() == meta.GetName() && m.GetAttempt() == meta.GetAttempt() {
			return c
		}
	}
	return nil
}

func (x *index) containersOf(s *sandbox) []*container {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Values(s.containers))
}

// allSandboxes and allContainers return states, the oldest first.
func (x *index) allSandboxes() []*Sandbox {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*Sandbox, 0, len(x.sandboxes))
	for _, s := range x.sandboxes {
		all = append(all, s.cur.Load())
	}
	slices.SortFunc(all, func(a, b *Sandbox) int { return older(a.CreatedAt, b.CreatedAt, a.ID, b.ID) })
	return all
}

func (x *index) allContainers() []*Container {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*Container, 0, len(x.containers))
	for _, c := range x.containers {
		all = append(all, c.cur.Load())
	}
	slices.SortFunc(all, func(a, b *Container) int { return older(a.CreatedAt, b.CreatedAt, a.ID, b.ID) })
	return all
}

func older(a, b time.Time, aID, bID string) int {
	if c := a.Compare(b); c != 0 {
		return c
	}
	return strings.Compare(aID, bID)
}

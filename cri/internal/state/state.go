// Package state is what a CRI server knows of its sandboxes and containers: in memory,
// for reads that call nobody (Reader); on disk, for the server after a crash (record);
// and published to subscribers (event), in the order of the changes.
//
// The package does not call the runtime's author and does not decide what happens next;
// the server does. A change that must survive a crash is on disk before anybody sees it.
//
// A Table is safe for concurrent use. Changes of one sandbox and of its containers
// require its Gate, unless a method says otherwise.
package state

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// shortestID is the minimum length of an abbreviated id.
const shortestID = 4

// Sandbox is a sandbox in memory.
type Sandbox struct {
	// Gate orders the calls that change the sandbox or its containers: alone, or shared
	// by those that end containers.
	Gate flight.Gate
	// Saving is broken by calls that end something, so that they need not wait for a
	// checkpoint. It is not part of the state.
	Saving flight.Breaker

	// What cur points to is never modified: a change replaces it, so that reads need no
	// lock and see consistent states.
	cur        atomic.Pointer[record.Sandbox]
	phase      record.Phase          // requires the gate
	stopped    bool                  // by the author, since it was last ready; requires the gate
	containers map[string]*Container // guarded by the table
}

// Now returns the sandbox's state, which must not be modified.
func (s *Sandbox) Now() *record.Sandbox { return s.cur.Load() }

// Copy returns the sandbox's state for an author to change.
func (s *Sandbox) Copy() *record.Sandbox {
	dup := *s.cur.Load()
	dup.IPs, dup.State = slices.Clone(dup.IPs), slices.Clone(dup.State)
	return &dup
}

// Container is a container in memory.
type Container struct {
	Sandbox *Sandbox
	// Turn lets one stop of the container at a time reach the author, and Deadline is the
	// time by which stops want it to be over. Neither is part of the state.
	Turn     flight.Gate
	Deadline flight.Deadline
	// Starting is broken by calls that want the container dead, so that they need not
	// wait for a start. It is not part of the state either.
	Starting flight.Breaker

	cur   atomic.Pointer[record.Container] // as in Sandbox
	ended chan struct{}                    // closed once there is an Exit

	mu    sync.Mutex // held while a change is persisted and published
	phase record.Phase
	// starting is true while the author starts the container: an exit reported meanwhile
	// is kept in early until the start is published.
	starting bool
	early    *record.Exit
}

// Now returns the container's state, which must not be modified.
func (c *Container) Now() *record.Container { return c.cur.Load() }

// Copy returns the container's state for an author to change, with the present state of
// its sandbox.
func (c *Container) Copy() *record.Container {
	dup := *c.cur.Load()
	dup.Sandbox, dup.State = c.Sandbox.Copy(), slices.Clone(dup.State)
	dup.User = proto.Clone(dup.User).(*runtimeapi.LinuxContainerUser)
	return &dup
}

// Ended is closed when the container has its Exit.
func (c *Container) Ended() <-chan struct{} { return c.ended }

// Table has the sandboxes and containers. NewTable creates it.
type Table struct {
	records *record.Dir
	events  *event.Hub
	log     *slog.Logger

	// mu is held for every list and every event: both are consistent snapshots.
	mu         sync.RWMutex
	sandboxes  map[string]*Sandbox
	containers map[string]*Container
}

// NewTable returns an empty table that writes to records and publishes to events.
func NewTable(records *record.Dir, events *event.Hub, log *slog.Logger) *Table {
	return &Table{
		records: records, events: events, log: log,
		sandboxes: map[string]*Sandbox{}, containers: map[string]*Container{},
	}
}

// Home returns the object's own directory.
func (t *Table) Home(id string) string { return t.records.Home(id) }

// Sandbox finds a sandbox by its id or a unique prefix of it. The error is fault.NotFound
// if there is none, and fault.Invalid if there are several or the id is empty.
func (t *Table) Sandbox(id string) (*Sandbox, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return find("sandbox", t.sandboxes, id)
}

// Container is Sandbox for containers.
func (t *Table) Container(id string) (*Container, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return find("container", t.containers, id)
}

func find[T any](kind string, all map[string]*T, id string) (found *T, err error) {
	if id == "" {
		return nil, fault.Invalid.Errorf("the request has no %s id", kind)
	}
	if exact := all[id]; exact != nil {
		return exact, nil
	}
	for full, candidate := range all {
		if len(id) < shortestID || !strings.HasPrefix(full, id) {
			continue
		}
		if found != nil {
			return nil, fault.Invalid.Errorf("%s %q: several ids begin so", kind, id)
		}
		found = candidate
	}
	if found == nil {
		return nil, fault.NotFound.Errorf("%s %q: not found", kind, id)
	}
	return found, nil
}

// ByPod returns the sandbox with this Pod uid and attempt, or nil.
func (t *Table) ByPod(meta *runtimeapi.PodSandboxMetadata) *Sandbox {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.sandboxes {
		m := s.Now().Config.GetMetadata()
		if m.GetUid() == meta.GetUid() && m.GetAttempt() == meta.GetAttempt() {
			return s
		}
	}
	return nil
}

// ByName returns the sandbox's container with this name and attempt, or nil.
func (t *Table) ByName(s *Sandbox, meta *runtimeapi.ContainerMetadata) *Container {
	for _, c := range t.ContainersOf(s) {
		m := c.Now().Config.GetMetadata()
		if m.GetName() == meta.GetName() && m.GetAttempt() == meta.GetAttempt() {
			return c
		}
	}
	return nil
}

// ContainersOf returns the sandbox's containers, in no order.
func (t *Table) ContainersOf(s *Sandbox) []*Container {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(s.containers))
}

// Sandboxes returns all sandboxes, the oldest first.
func (t *Table) Sandboxes() []*Sandbox {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.oldestFirst()
}

// oldestFirst requires the table to be locked.
func (t *Table) oldestFirst() []*Sandbox {
	return slices.SortedFunc(maps.Values(t.sandboxes), func(a, b *Sandbox) int {
		x, y := a.Now(), b.Now()
		return older(x.CreatedAt, y.CreatedAt, x.ID, y.ID)
	})
}

// Containers returns all containers, the oldest first.
func (t *Table) Containers() []*Container {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return sorted(t.containers)
}

func sorted(all map[string]*Container) []*Container {
	return slices.SortedFunc(maps.Values(all), func(a, b *Container) int {
		x, y := a.Now(), b.Now()
		return older(x.CreatedAt, y.CreatedAt, x.ID, y.ID)
	})
}

func older(a, b time.Time, aID, bID string) int {
	if c := a.Compare(b); c != 0 {
		return c
	}
	return strings.Compare(aID, bID)
}

package state

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/record"
)

// IntendContainer records that a container is about to be created. It is not visible yet.
func (t *Table) IntendContainer(r *record.Container) error {
	return t.records.PutContainer(r, record.Creating)
}

// AddContainer makes a created container visible.
func (t *Table) AddContainer(s *Sandbox, r *record.Container) error {
	if err := t.records.PutContainer(r, record.Live); err != nil {
		return err
	}
	c := newContainer(s, r, record.Live)
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { t.add(c) })
	return nil
}

// ForgetContainer deletes what IntendContainer recorded, after a creation that failed and
// was undone.
func (t *Table) ForgetContainer(id string) error { return t.records.RemoveContainer(id) }

// KeepContainer shows a container whose creation could not be undone as exited, so that
// the kubelet removes it. Its record says that its creation is incomplete.
func (t *Table) KeepContainer(s *Sandbox, r *record.Container, e record.Exit) {
	r.Exit = e.Normal()
	c := newContainer(s, r, record.Creating)
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { t.add(c) })
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, func() {})
}

func newContainer(s *Sandbox, r *record.Container, p record.Phase) *Container {
	c := &Container{Sandbox: s, Turn: flight.NewGate(), phase: p, ended: make(chan struct{})}
	c.cur.Store(r)
	if r.Exit != nil {
		close(c.ended)
	}
	return c
}

// add requires t.mu to be held.
func (t *Table) add(c *Container) {
	id := c.Now().ID
	t.containers[id], c.Sandbox.containers[id] = c, c
}

// IntendStart writes the record of a running container before it runs: if the server is
// killed, the next one finds it, and Recover says what became of it. Exits reported from
// here on wait for Start or Exit.
func (t *Table) IntendStart(c *Container, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.Now()
	next.StartedAt = at
	if err := t.records.PutContainer(&next, c.phase); err != nil {
		return err
	}
	c.starting = true
	return nil
}

// Start shows the container as running, in the state next, and then its exit if that is
// already known.
func (t *Table) Start(c *Container, next *record.Container) {
	exit := next.Exit
	next.Exit = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if !sameContainer(c.Now(), next) {
		t.logged("writing the record of a started container", next.ID, t.records.PutContainer(next, c.phase))
	}
	t.publish(c.Sandbox, next.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, func() { c.cur.Store(next) })
	c.starting = false
	if exit == nil {
		exit = c.early
	}
	if exit != nil {
		t.exit(c, *exit)
	}
}

// sameContainer compares what an author may change, except for the Exit.
func sameContainer(a, b *record.Container) bool {
	return string(a.State) == string(b.State) && a.ImageRef == b.ImageRef && a.LogPath == b.LogPath &&
		a.StopSignal == b.StopSignal && proto.Equal(a.User, b.User)
}

// Report handles an exit that the author reports unasked. It does not need the gate; a
// container that is unknown has been removed.
func (t *Table) Report(id string, e record.Exit) {
	t.mu.RLock()
	c := t.containers[id]
	t.mu.RUnlock()
	if c == nil {
		t.log.Debug("exit of an unknown container", "container", id)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.starting {
		c.early = &e
		return
	}
	t.exit(c, e)
}

// Exit ends the container, even if its start failed. Only the first exit of a container
// counts. The gate may be shared.
func (t *Table) Exit(c *Container, e record.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starting = false
	t.exit(c, e)
}

// exit persists and then publishes the end of a container. It requires c.mu to be held.
func (t *Table) exit(c *Container, e record.Exit) {
	next := *c.Now()
	if next.Exit != nil {
		return
	}
	next.Exit = e.Normal()
	t.logged("writing the exit of a container", next.ID, t.records.PutContainer(&next, c.phase))
	t.publish(c.Sandbox, next.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, func() { c.cur.Store(&next) })
	close(c.ended)
	t.log.Info("container ended", "container", next.ID, "name", next.Config.GetMetadata().GetName(), "code", next.Exit.Code, "reason", next.Exit.Reason)
}

// Limit merges new limits into the container's own: a zero value leaves a limit
// unchanged.
func (t *Table) Limit(c *Container, limits *runtimeapi.LinuxContainerResources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.Now()
	next.Config = limited(next.Config, limits)
	t.logged("writing the record of an updated container", next.ID, t.records.PutContainer(&next, c.phase))
	c.cur.Store(&next)
}

func limited(config *runtimeapi.ContainerConfig, limits *runtimeapi.LinuxContainerResources) *runtimeapi.ContainerConfig {
	dup := proto.Clone(config).(*runtimeapi.ContainerConfig)
	if dup.Linux == nil {
		dup.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	dup.Linux.Resources = merged(dup.Linux.Resources, limits)
	return dup
}

// merged merges limits into have, which it creates if necessary, unless limits is nil.
func merged(have, limits *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	if limits == nil {
		return have
	}
	if have == nil {
		have = &runtimeapi.LinuxContainerResources{}
	}
	if len(limits.GetHugepageLimits()) > 0 {
		have.HugepageLimits = nil // Merge appends to lists
	}
	proto.Merge(have, limits)
	return have
}

// IntendContainerRemoval records that the container, which has ended, is about to be
// removed.
func (t *Table) IntendContainerRemoval(c *Container) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = record.Removing
	return t.records.PutContainer(c.Now(), c.phase)
}

// RemoveContainer deletes the container, its directory and its record.
func (t *Table) RemoveContainer(c *Container) error {
	id := c.Now().ID
	if err := t.records.RemoveContainer(id); err != nil {
		return err
	}
	t.publish(c.Sandbox, id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, func() {
		delete(t.containers, id)
		delete(c.Sandbox.containers, id)
	})
	return nil
}

// logged logs a failed write of a change that has already happened: the record is out of
// date, and Recover corrects it after a restart.
func (t *Table) logged(doing, id string, err error) {
	if err != nil {
		t.log.ErrorContext(context.Background(), doing, "id", id, "err", err)
	}
}

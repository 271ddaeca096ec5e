package state

import (
	"slices"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/record"
)

// IntendSandbox records that a sandbox is about to be created. It is not visible yet.
func (t *Table) IntendSandbox(r *record.Sandbox) error {
	return t.records.PutSandbox(r, record.Creating)
}

// AddSandbox makes a created sandbox visible.
func (t *Table) AddSandbox(r *record.Sandbox) error {
	if err := t.records.PutSandbox(r, record.Live); err != nil {
		return err
	}
	s := newSandbox(r, record.Live)
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { t.sandboxes[r.ID] = s })
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, func() {})
	return nil
}

// ForgetSandbox deletes what IntendSandbox recorded, after a creation that failed and was
// undone.
func (t *Table) ForgetSandbox(id string) error { return t.records.RemoveSandbox(id) }

// KeepSandbox shows a sandbox whose creation could not be undone, so that the kubelet
// removes it. Its record says that its creation is incomplete.
func (t *Table) KeepSandbox(r *record.Sandbox) {
	r.Ready = false
	s := newSandbox(r, record.Creating)
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { t.sandboxes[r.ID] = s })
	t.publish(s, r.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, func() {})
}

func newSandbox(r *record.Sandbox, p record.Phase) *Sandbox {
	s := &Sandbox{Gate: flight.NewGate(), phase: p, containers: map[string]*Container{}}
	s.cur.Store(r)
	return s
}

// StopSandbox shows the sandbox as not ready, and otherwise in the state next. It reports
// whether that changed anything.
func (t *Table) StopSandbox(s *Sandbox, next *record.Sandbox) (changed bool, err error) {
	next.Ready = false
	if sameSandbox(s.Now(), next) {
		s.stopped = true
		return false, nil
	}
	if err := t.records.PutSandbox(next, s.phase); err != nil {
		return false, err
	}
	s.stopped = true
	t.publish(s, next.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, func() { s.cur.Store(next) })
	return true, nil
}

// Stopped reports whether StopSandbox has succeeded in this process.
func (s *Sandbox) Stopped() bool { return s.stopped }

// LimitSandbox merges new limits into those of the sandbox's config, as Limit does for
// containers. Either may be nil.
func (t *Table) LimitSandbox(s *Sandbox, overhead, resources *runtimeapi.LinuxContainerResources) {
	next := s.Copy()
	next.Config = proto.Clone(next.Config).(*runtimeapi.PodSandboxConfig)
	if next.Config.Linux == nil {
		next.Config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	next.Config.Linux.Overhead = merged(next.Config.Linux.Overhead, overhead)
	next.Config.Linux.Resources = merged(next.Config.Linux.Resources, resources)
	t.logged("writing the record of an updated sandbox", next.ID, t.records.PutSandbox(next, s.phase))
	t.mu.Lock()
	defer t.mu.Unlock()
	s.cur.Store(next)
}

func sameSandbox(a, b *record.Sandbox) bool {
	return a.Ready == b.Ready && string(a.State) == string(b.State) && slices.Equal(a.IPs, b.IPs)
}

// IntendSandboxRemoval records that the sandbox is about to be removed.
func (t *Table) IntendSandboxRemoval(s *Sandbox) error {
	s.phase = record.Removing
	return t.records.PutSandbox(s.Now(), s.phase)
}

// RemoveSandbox deletes the sandbox, its directory and its record. Its containers must
// have been removed before.
func (t *Table) RemoveSandbox(s *Sandbox) error {
	id := s.Now().ID
	if err := t.records.RemoveSandbox(id); err != nil {
		return err
	}
	t.publish(s, id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, func() { delete(t.sandboxes, id) })
	return nil
}

// publish applies a change to what readers see and notifies the subscribers in one step,
// so that events are in the order of the states. The event shows the sandbox with all its
// containers after the change; id is the container's, or the sandbox's for its own
// events.
func (t *Table) publish(s *Sandbox, id string, kind runtimeapi.ContainerEventType, apply func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	apply()
	t.events.Publish(func() *event.Event { return eventOf(s, id, kind) })
}

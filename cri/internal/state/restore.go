package state

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/record"
)

// AddRestored makes a sandbox visible that was created together with its containers. The
// sandbox's record is written last: without it, the creation of all of them counts as
// incomplete.
func (t *Table) AddRestored(r *record.Sandbox, containers []*record.Container) error {
	for _, c := range containers {
		if err := t.records.PutContainer(c, record.Live); err != nil {
			return err
		}
	}
	if err := t.records.PutSandbox(r, record.Live); err != nil {
		return err
	}
	s := newSandbox(r, record.Live)
	made := make([]*Container, len(containers))
	for i, c := range containers {
		made[i] = newContainer(s, c, record.Live)
	}
	// In one step: a removal of the sandbox must find everything that belongs to it.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sandboxes[r.ID] = s
	for _, c := range made {
		t.add(c)
	}
	tell := func(id string, kind runtimeapi.ContainerEventType) {
		t.events.Publish(func() *event.Event { return eventOf(s, id, kind) })
	}
	tell(r.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	tell(r.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	for _, c := range containers {
		tell(c.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	}
	return nil
}

// IntendPause records that containers of the sandbox are about to be paused, and the file
// that is being written meanwhile, if any.
func (t *Table) IntendPause(sandboxID, partial string) error {
	return t.records.PutPause(record.Pause{SandboxID: sandboxID, Partial: partial})
}

// ForgetPause records that no container of the sandbox is paused.
func (t *Table) ForgetPause(id string) error { return t.records.ForgetPause(id) }

// Pauses returns the pauses that IntendPause recorded and ForgetPause did not end.
func (t *Table) Pauses() ([]record.Pause, error) { return t.records.Pauses() }

package state

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
)

// AddRestored shows a sandbox that was made with its containers. The sandbox's
// record is the last to say so: without it all of them are half made.
func (t *Table) AddRestored(r *record.Sandbox, containers []*record.Container) error {
	for _, c := range containers {
		if err := t.records.PutContainer(c, record.Live); err != nil {
			return err
		}
	}
	if err := t.AddSandbox(r); err != nil {
		return err
	}
	s, err := t.Sandbox(r.ID)
	if err != nil {
		return err
	}
	for _, c := range containers {
		made := newContainer(s, c, record.Live)
		t.publish(s, c.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, func() { t.add(made) })
	}
	return nil
}

// IntendPause writes that containers of the sandbox are about to be paused.
func (t *Table) IntendPause(s *Sandbox) error { return t.records.PutPause(s.Now().ID) }

// ForgetPause writes that no container of the sandbox is paused.
func (t *Table) ForgetPause(id string) error { return t.records.ForgetPause(id) }

// Pauses returns the ids of sandboxes that may have paused containers.
func (t *Table) Pauses() ([]string, error) { return t.records.Pauses() }

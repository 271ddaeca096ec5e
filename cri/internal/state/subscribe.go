package state

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
)

// subscribe returns a subscription and, if requested, the state that results from all
// earlier events: no change is missing from both.
func (t *Table) subscribe(withSnapshot bool) (*event.Subscription, []*event.Event, error) {
	t.mu.RLock() // nobody publishes
	defer t.mu.RUnlock()
	sub, err := t.events.Subscribe()
	if err != nil || !withSnapshot {
		return sub, nil, err
	}
	var all []*event.Event
	for _, s := range t.oldestFirst() {
		kind := runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
		if s.Now().Ready {
			kind = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
		}
		all = append(all, eventOf(s, s.Now().ID, kind))
	}
	return sub, all, nil
}

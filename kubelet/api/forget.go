package api

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

const (
	// eventLife is how long an Event is kept, and eventMost how many are.
	eventLife = time.Hour
	eventMost = 5000
)

// forgetEvents deletes Events that are old, or too many, until ctx ends.
func (s *Server) forgetEvents(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.forgetEventsBefore(now.Add(-eventLife))
		}
	}
}

func (s *Server) forgetEventsBefore(limit time.Time) {
	kind := find(schema.GroupVersion{Version: "v1"}, "events")
	objects, _ := s.config.Store.List(kind, "")
	slices.SortFunc(objects, func(a, b object.Object) int { return lastSeen(a).Compare(lastSeen(b)) })
	for i, o := range objects {
		if lastSeen(o).After(limit) && len(objects)-i <= eventMost {
			return
		}
		s.discard(&world{}, o, asSeen(o), metav1.DeletePropagationBackground)
	}
}

func lastSeen(o object.Object) time.Time {
	e := o.(*v1.Event)
	at := e.LastTimestamp.Time
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	if e.EventTime.After(at) {
		at = e.EventTime.Time
	}
	if at.IsZero() {
		at = e.CreationTimestamp.Time
	}
	return at
}

package store

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// EventType says what happened to an object.
type EventType string

// The event types.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

const (
	// window is how many changes of a kind are kept for watches: a watch that is
	// further behind has to list again.
	window = 4096
	// windowBytes bounds the size of these changes' objects as JSON, so that large
	// objects that change often do not pin much of their history.
	windowBytes = 16 << 20
	// hot is how many of the newest changes keep their JSON, so that it is encoded once
	// for any number of watches.
	hot = 128
)

// Event is one change. It is shared between watchers and must not be changed.
type Event struct {
	Type EventType
	// Object is the new state or, for Deleted, the last one. Before is the previous
	// state, nil for Added.
	Object, Before Object
	Revision       uint64

	size int // of the object's JSON
	json atomic.Pointer[[]byte]
}

// JSON returns the object's JSON.
func (e *Event) JSON() ([]byte, error) {
	if data := e.json.Load(); data != nil {
		return *data, nil
	}
	data, err := json.Marshal(e.Object)
	if err != nil {
		return nil, err
	}
	e.json.Store(&data)
	return data, nil
}

// collection is the store's data of one kind. The store's mu guards it.
type collection struct {
	objects map[string]Object
	events  []*Event // the last changes, oldest first
	bytes   int      // their size
	// horizon is the revision up to which changes are no longer known.
	horizon uint64
	changed chan struct{} // closed and replaced at each change
}

func newCollection() *collection {
	return &collection{objects: map[string]Object{}, changed: make(chan struct{})}
}

// add appends a change, with its object's JSON.
func (c *collection) add(e *Event, data []byte) {
	e.size = len(data)
	e.json.Store(&data)
	c.events = append(c.events, e)
	c.bytes += e.size
	if len(c.events) > 2*window {
		c.forget(len(c.events) - window)
	}
	if c.bytes > windowBytes { // drop half of it, so that this is rare
		n, left := 0, c.bytes
		for ; left > windowBytes/2 && n < len(c.events)-1; n++ {
			left -= c.events[n].size
		}
		c.forget(n)
	}
	if cold := len(c.events) - 1 - hot; cold >= 0 {
		c.events[cold].json.Store(nil)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// forget drops the n oldest changes. Readers may still hold them.
func (c *collection) forget(n int) {
	if n == 0 {
		return
	}
	c.horizon = c.events[n-1].Revision
	for _, e := range c.events[:n] {
		c.bytes -= e.size
	}
	c.events = append(make([]*Event, 0, len(c.events)), c.events[n:]...)
}

// after returns the changes that follow the revision.
func (c *collection) after(revision uint64) []*Event {
	low, high := 0, len(c.events)
	for low < high {
		if mid := (low + high) / 2; c.events[mid].Revision > revision {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return c.events[low:len(c.events):len(c.events)]
}

// Watch follows the changes of one kind. It is for one goroutine.
type Watch struct {
	store *Store
	kind  *object.Kind
	seen  uint64
}

// Watch returns a watch of the changes after a revision, usually that of a List. If
// those are no longer known, or no such revision was ever given out, its first Next
// returns fault.OutOfRange: then list again. A watch costs nothing while nobody waits
// in Next, and needs no closing.
func (s *Store) Watch(k *object.Kind, after uint64) *Watch { return &Watch{s, k, after} }

// Revision returns the revision up to which Next has returned every change.
func (w *Watch) Revision() uint64 { return w.seen }

// Next waits for changes and returns all of them in order, without gaps. It returns
// fault.OutOfRange if the watch has fallen so far behind that changes were dropped, and
// the context's error when that ends.
func (w *Watch) Next(ctx context.Context) ([]*Event, error) {
	for {
		w.store.mu.RLock()
		c := w.store.collections[w.kind]
		revision, horizon, changed := w.store.revision, c.horizon, c.changed
		events := c.after(w.seen)
		w.store.mu.RUnlock()
		if w.seen < horizon || w.seen > revision {
			return nil, fault.OutOfRange.Errorf("the changes of %s since resourceVersion %d are not known any more: list them again", w.kind.Resource, w.seen)
		}
		w.seen = revision
		if len(events) > 0 {
			return events, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

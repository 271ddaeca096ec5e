package store

import (
	"context"
	"sync"
)

// EventType says what happened to an object.
type EventType string

// What may happen. Synced comes once in each watch, without an object, after
// the objects that existed when it began.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Synced   EventType = "SYNCED"
)

// Event is one change. Its object is shared with other watchers: read only.
type Event struct {
	Type   EventType
	Object Object
}

// watcher is one watch: a queue without bound between the writers, who must
// never wait, and one reader.
type watcher struct {
	kind  string // "" for all kinds
	mu    sync.Mutex
	queue []Event
	ready chan struct{} // has room for one signal
}

func (w *watcher) add(e Event) {
	w.mu.Lock()
	w.queue = append(w.queue, e)
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q
}

// Watch delivers the objects of the kind of example (nil for every kind) that
// exist now as Added, then Synced, then every change in order, none left out,
// until ctx ends. The channel is closed then.
func (s *Store) Watch(ctx context.Context, example Object) (<-chan Event, error) {
	w := &watcher{ready: make(chan struct{}, 1)}
	if example != nil {
		kind, err := kindOf(example)
		if err != nil {
			return nil, err
		}
		w.kind = kind
	}
	s.mu.Lock()
	for kind, objects := range s.objects {
		if w.kind != "" && w.kind != kind {
			continue
		}
		for _, o := range objects {
			w.add(Event{Type: Added, Object: o})
		}
	}
	w.add(Event{Type: Synced})
	s.watchers[w] = struct{}{}
	s.mu.Unlock()

	out := make(chan Event)
	go func() {
		defer close(out)
		defer s.forget(w)
		w.deliver(ctx, out)
	}()
	return out, nil
}

func (w *watcher) deliver(ctx context.Context, out chan<- Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ready:
		}
		for _, e := range w.take() {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *Store) forget(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// notify queues the event for who watches. The caller holds s.mu, so that all
// watchers see the changes in one order.
func (s *Store) notify(kind string, e Event) {
	for w := range s.watchers {
		if w.kind == "" || w.kind == kind {
			w.add(e)
		}
	}
}

// Package event hands container events to every subscriber of the CRI's
// GetContainerEvents. A publisher never waits: a subscriber that falls too far
// behind is cut off with an error, so that it knows that it must list again.
//
// The package does not say what an event is or when one is due (state does).
// A Hub is safe for concurrent use; each subscriber gets the events in the
// order in which they were published.
package event

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Backlog is how many events a subscriber may be behind.
const Backlog = 1024

// Event is what subscribers get. It is shared by all of them and must not be
// changed once it is published.
type Event = runtimeapi.ContainerEventResponse

// Hub has the subscribers. NewHub makes it.
type Hub struct {
	mu     sync.Mutex
	subs   map[chan *Event]struct{} // queues; the hub closes one that it cuts off
	closed bool
}

// NewHub returns a hub without subscribers.
func NewHub() *Hub { return &Hub{subs: map[chan *Event]struct{}{}} }

// Publish hands the event that make returns to every subscriber. Without
// subscribers make is not called.
func (h *Hub) Publish(make func() *Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subs) == 0 {
		return
	}
	e := make()
	for queue := range h.subs {
		select {
		case queue <- e:
		default:
			delete(h.subs, queue)
			close(queue)
		}
	}
}

// Close ends every subscription, after what it has queued, with
// fault.Unavailable, and refuses new ones. Closing again does nothing.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for queue := range h.subs {
		delete(h.subs, queue)
		close(queue)
	}
}

// Serve subscribes the stream and serves it until its context ends (nil), the
// hub is closed (fault.Unavailable) or the subscriber is too slow
// (fault.Exhausted). The stream's header says that the subscription stands:
// every event that is published after it is in the stream.
func (h *Hub) Serve(stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	queue, err := h.subscribe()
	if err != nil {
		return err
	}
	defer h.unsubscribe(queue)
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e, ok := <-queue:
			if !ok {
				return h.whyCut()
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (h *Hub) subscribe() (chan *Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, stopping()
	}
	queue := make(chan *Event, Backlog)
	h.subs[queue] = struct{}{}
	return queue, nil
}

func (h *Hub) unsubscribe(queue chan *Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, queue)
}

// whyCut is the error of a subscription whose queue was closed.
func (h *Hub) whyCut() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return stopping()
	}
	return fault.Exhausted.Errorf("the subscriber is more than %d events behind: list, and subscribe again", Backlog)
}

func stopping() error { return fault.Unavailable.Errorf("the server is stopping") }

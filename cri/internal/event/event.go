// Package event sends container events to every subscriber of the CRI's
// GetContainerEvents. A publisher never waits: a subscriber that falls too far behind is
// disconnected with an error, so that it knows that it must list again.
//
// The CRI has no sequence number in an event, and no way to request missed ones. The
// header of a subscription makes up for both (SequenceKey, SnapshotKey); a client that
// ignores it sees the plain CRI.
//
// The package does not define what an event is or when one is due (state does). A Hub is
// safe for concurrent use; each subscriber gets the events in the order in which they
// were published.
package event

import (
	"crypto/rand"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Backlog is how many events a subscriber may lag behind.
const Backlog = 1024

// The metadata of a subscription, an extension of the CRI.
const (
	// SnapshotKey in a request, with any value, requests the state of everything before
	// the first event. In the header it is the number of events of that snapshot, which
	// do not count as events.
	SnapshotKey = "nodekit-cri-snapshot"
	// SequenceKey in the header is the number of events before the first one of this
	// subscription. With that and the number of events received since, a client can tell
	// after a new subscription whether it missed any.
	SequenceKey = "nodekit-cri-sequence"
	// ServerKey in the header is new for every start of the server, which then counts
	// from zero.
	ServerKey = "nodekit-cri-server"
)

// Event is what subscribers get. All of them share it, so it must not be changed once it
// is published.
type Event = runtimeapi.ContainerEventResponse

// Hub has the subscribers. NewHub creates it.
type Hub struct {
	name string // of this run of the server

	mu       sync.Mutex
	subs     map[chan *Event]struct{} // queues; the hub closes one that it cuts off
	sequence uint64                   // events so far
	closed   bool
}

// NewHub returns a hub without subscribers.
func NewHub() *Hub { return &Hub{name: rand.Text(), subs: map[chan *Event]struct{}{}} }

// Publish passes the event that make returns to every subscriber. Without subscribers,
// make is not called.
func (h *Hub) Publish(make func() *Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
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

// Close ends every subscription, after the events that it has queued, with
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

// Subscription is one subscriber's. Subscribe creates it.
type Subscription struct {
	hub   *Hub
	queue chan *Event
	after uint64
}

// Subscribe returns a subscription, which gets every event that is published
// from now on and must be served. After Close it returns fault.Unavailable.
func (h *Hub) Subscribe() (*Subscription, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, stopping()
	}
	s := &Subscription{hub: h, queue: make(chan *Event, Backlog), after: h.sequence}
	h.subs[s.queue] = struct{}{}
	return s, nil
}

// Serve sends the header, which says that the subscription is established, then the
// snapshot, and then events until the stream's context ends (nil), the hub is closed
// (fault.Unavailable) or the subscriber is too slow (fault.Exhausted). The subscription
// then ends.
func (s *Subscription) Serve(stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse], snapshot []*Event) error {
	defer s.hub.unsubscribe(s.queue)
	err := stream.SendHeader(metadata.Pairs(
		ServerKey, s.hub.name,
		SequenceKey, strconv.FormatUint(s.after, 10),
		SnapshotKey, strconv.Itoa(len(snapshot)),
	))
	if err != nil {
		return err
	}
	for _, e := range snapshot {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e, ok := <-s.queue:
			if !ok {
				return s.hub.whyCut()
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (h *Hub) unsubscribe(queue chan *Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, queue)
}

// whyCut returns the error of a subscription whose queue was closed.
func (h *Hub) whyCut() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return stopping()
	}
	return fault.Exhausted.Errorf("the subscriber is more than %d events behind: list, and subscribe again", Backlog)
}

func stopping() error { return fault.Unavailable.Errorf("the server is stopping") }

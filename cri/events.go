package cri

import (
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventBacklog is how many events a subscriber may be behind. One that falls
// further behind is cut off with ErrExhausted, so that it knows that it must
// list again; nobody waits for it.
const eventBacklog = 1024

// hub hands every event to every subscriber. Its publisher never waits.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
}

// subscriber has a queue that the hub closes when it is full.
type subscriber struct {
	queue chan *runtimeapi.ContainerEventResponse
}

func newHub() *hub { return &hub{subs: map[*subscriber]struct{}{}} }

func (h *hub) subscribe() (*subscriber, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrUnavailable.Errorf("the server is stopping")
	}
	sub := &subscriber{queue: make(chan *runtimeapi.ContainerEventResponse, eventBacklog)}
	h.subs[sub] = struct{}{}
	return sub, nil
}

func (h *hub) unsubscribe(sub *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, sub)
}

// wanted reports whether anybody listens, so that events are not made in vain.
func (h *hub) wanted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) > 0
}

func (h *hub) publish(e *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sub := range h.subs {
		select {
		case sub.queue <- e:
		default:
			delete(h.subs, sub)
			close(sub.queue)
		}
	}
}

// close ends every subscription.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for sub := range h.subs {
		delete(h.subs, sub)
		close(sub.queue)
	}
}

// whyCut is the error of a subscription whose queue was closed.
func (h *hub) whyCut() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrUnavailable.Errorf("the server is stopping")
	}
	return ErrExhausted.Errorf("the subscriber is more than %d events behind: list, and subscribe again", eventBacklog)
}

// publish applies a change to what readers see and tells the subscribers, in
// one step, so that the order of events is that of the states. The event shows
// the sandbox with all its containers after the change; id is the container's,
// or the sandbox's for its own events.
func (s *server) publish(sb *sandbox, id string, kind runtimeapi.ContainerEventType, apply func()) {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	apply()
	if !s.events.wanted() {
		return
	}
	s.events.publish(&runtimeapi.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(),
		PodSandboxStatus: sb.cur.Load().status(), ContainersStatuses: statusesOf(sb),
	})
}

// statusesOf wants the index locked.
func statusesOf(sb *sandbox) []*runtimeapi.ContainerStatus {
	states := make([]*Container, 0, len(sb.containers))
	for c := range maps.Values(sb.containers) {
		states = append(states, c.cur.Load())
	}
	slices.SortFunc(states, func(a, b *Container) int { return older(a.CreatedAt, b.CreatedAt, a.ID, b.ID) })
	all := make([]*runtimeapi.ContainerStatus, len(states))
	for i, c := range states {
		all[i] = c.status()
	}
	return all
}

// GetContainerEvents sends its header once the subscription stands: every
// later change is in the stream.
func (s *server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	sub, err := s.events.subscribe()
	if err != nil {
		return err
	}
	defer s.events.unsubscribe(sub)
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e, ok := <-sub.queue:
			if !ok {
				return s.events.whyCut()
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

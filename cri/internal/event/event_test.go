package event_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// stream is the server's side of a subscription. Send waits while it is held.
type stream struct {
	grpc.ServerStream
	ctx   context.Context
	ready chan struct{}
	got   chan string
	held  sync.Mutex
}

func (s *stream) Context() context.Context       { return s.ctx }
func (s *stream) SendHeader(_ metadata.MD) error { close(s.ready); return nil }
func (s *stream) Send(e *event.Event) error {
	s.held.Lock()
	defer s.held.Unlock()
	s.got <- e.ContainerId
	return nil
}

// subscribe returns a stream that stands, and the channel of how it ends.
func subscribe(ctx context.Context, h *event.Hub) (*stream, <-chan error) {
	s := &stream{ctx: ctx, ready: make(chan struct{}), got: make(chan string, 3*event.Backlog)}
	done := make(chan error, 1)
	sub, err := h.Subscribe()
	if err != nil {
		done <- err
		return s, done
	}
	go func() { done <- sub.Serve(s, nil) }()
	<-s.ready
	return s, done
}

func publish(h *event.Hub, id string) {
	h.Publish(func() *event.Event { return &runtimeapi.ContainerEventResponse{ContainerId: id} })
}

func TestEverySubscriberGetsEveryEventInOrder(t *testing.T) {
	h := event.NewHub()
	h.Publish(func() *event.Event { t.Error("an event was made for nobody"); return nil })
	a, aDone := subscribe(t.Context(), h)
	ctx, cancel := context.WithCancel(t.Context())
	b, bDone := subscribe(ctx, h)
	for i := range 100 {
		publish(h, fmt.Sprint(i))
	}
	for i := range 100 {
		if x, y := <-a.got, <-b.got; x != fmt.Sprint(i) || y != x {
			t.Fatalf("event %d: %s and %s", i, x, y)
		}
	}
	cancel()
	if err := <-bDone; err != nil {
		t.Errorf("a subscriber that went: %v", err)
	}
	publish(h, "last")
	h.Close()
	h.Close()
	if err := <-aDone; !errors.Is(err, fault.Unavailable) {
		t.Errorf("after Close: %v", err)
	}
	if got := <-a.got; got != "last" {
		t.Errorf("what was queued at Close: %q", got)
	}
	if _, err := h.Subscribe(); !errors.Is(err, fault.Unavailable) {
		t.Errorf("subscribing after Close: %v", err)
	}
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	h := event.NewHub()
	slow, slowDone := subscribe(t.Context(), h)
	quick, _ := subscribe(t.Context(), h)
	slow.held.Lock()
	for range event.Backlog + 2 { // one is in Send
		publish(h, "x")
		<-quick.got
	}
	slow.held.Unlock()
	if err := <-slowDone; !errors.Is(err, fault.Exhausted) {
		t.Errorf("got %v", err)
	}
	h.Close()
}

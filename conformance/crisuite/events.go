package crisuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

const (
	// subscribeTime is how long the first event of a subscription may take.
	subscribeTime = 15 * time.Second
	// probeTime is how long to wait for an event of a sandbox before creating another:
	// the subscription may not have been established for the first.
	probeTime = time.Second
	// eventTime is how late an event may be.
	eventTime = 3 * time.Second
)

const (
	created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

func eventRules() []rule {
	return []rule{
		relied("CRI-EVENT-001", "tells a subscriber that a container is created, started, stopped and deleted, in this order",
			"evented PLEG", "The kubelet takes the last event of a container for its state: one that comes late would bring it back to life.", checkEvents, Containers),
		facto("CRI-EVENT-002", "tells a subscriber of sandboxes, with their id as the container's",
			"evented PLEG", "The kubelet drops what it knows of a Pod when the event that its sandbox was deleted comes.", checkSandboxEvents),
		relied("CRI-EVENT-003", "sends with each event the status of the sandbox and of its containers",
			"evented PLEG", "The kubelet makes the Pod's status of the event's statuses, and asks no more.", checkEventStatus, Containers),
		heavy(facto("CRI-EVENT-004", "tells every subscriber everything",
			"evented PLEG", "Who looks at the events beside the kubelet takes none of them away.", checkSubscribers, Containers)),
		heavy(facto("CRI-EVENT-005", "does not wait for a subscriber that does not read",
			"evented PLEG", "A kubelet that is slow must not hold up the runtime.", checkSlowSubscriber, Containers)),
		facto("CRI-EVENT-006", "says in an event of an end what its status says",
			"evented PLEG", "The kubelet takes the exit code from the event, and asks no more.", checkEventExit, Containers),
		facto("CRI-EVENT-007", "orders the events of a container that ends at once",
			"evented PLEG", "A program may end before StartContainer has returned; its start is told before its end all the same.", checkEventsAtOnce, Containers),
	}
}

// subscription is a stream of events.
type subscription struct {
	events chan *runtimeapi.ContainerEventResponse
	broken chan error
	cancel context.CancelFunc
}

// subscribe returns when the subscription is established.
func (s *subject) subscribe(ctx context.Context) (*subscription, error) {
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscription{make(chan *runtimeapi.ContainerEventResponse, 1000), make(chan error, 1), cancel}
	go func() {
		sub.broken <- s.Events(ctx, nil, func(e *runtimeapi.ContainerEventResponse) {
			select {
			case sub.events <- e:
			case <-ctx.Done():
			}
		})
	}()
	if err := s.stands(ctx, sub); err != nil {
		cancel()
		return nil, err
	}
	return sub, nil
}

// stands returns when the subscriber has received an event that was caused after it
// subscribed. The CRI has no other sign of a subscription: some runtimes confirm the
// stream before they have registered the subscriber, some never confirm it, and some
// first send what exists already.
func (s *subject) stands(ctx context.Context, sub *subscription) error {
	late := time.After(subscribeTime)
	probes := map[string]bool{}
	for {
		id, err := s.probe(ctx)
		if err != nil {
			return err
		}
		probes[id] = true
		again := time.After(probeTime)
		for waits := true; waits; {
			select {
			case e := <-sub.events:
				if probes[e.GetContainerId()] || probes[e.GetPodSandboxStatus().GetId()] {
					return nil
				}
			case err := <-sub.broken:
				return sub.ended("its first event", err)
			case <-again:
				waits = false
			case <-late:
				return fmt.Errorf("the subscriber got no event of %d sandboxes that came and went within %v", len(probes), subscribeTime)
			}
		}
	}
}

// probe creates a sandbox, with a container if the runtime has them, and removes it.
func (s *subject) probe(ctx context.Context) (id string, err error) {
	p, err := s.pod(ctx)
	if err != nil {
		return "", err
	}
	if s.target.missing([]Feature{Containers}) == nil {
		if _, err := p.create(ctx, forever); err != nil {
			return "", err
		}
	}
	return p.id, s.remove(ctx, p.id)
}

// ended returns the error of a stream that ended before something came.
func (sub *subscription) ended(before string, err error) error {
	if errors.Is(err, cri.ErrUnimplemented) { // some say so only after the stream's header
		return conformance.NotApplicable("the runtime sends no events")
	}
	return errors.Join(fmt.Errorf("the subscription ended before %s", before), err)
}

// next waits for the next event of a container or sandbox and returns it; an event of a
// type other than wanted is an error.
func (sub *subscription) next(id string, want runtimeapi.ContainerEventType) (*runtimeapi.ContainerEventResponse, error) {
	late := time.After(eventTime)
	for {
		select {
		case e := <-sub.events:
			if e.GetContainerId() != id {
				continue
			}
			if e.GetContainerEventType() != want {
				return nil, otherError{e.GetContainerEventType(), want}
			}
			return e, nil
		case err := <-sub.broken:
			return nil, sub.ended(want.String(), err)
		case <-late:
			return nil, fmt.Errorf("the subscriber got no %v within %v", want, eventTime)
		}
	}
}

// otherError is an event other than the expected one.
type otherError struct{ got, want runtimeapi.ContainerEventType }

func (e otherError) Error() string {
	return fmt.Sprintf("the subscriber got %v, want %v", e.got, e.want)
}

// life waits for the events of a whole life, and returns them.
func (sub *subscription) life(id string) (all []*runtimeapi.ContainerEventResponse, err error) {
	for _, want := range []runtimeapi.ContainerEventType{created, started, stopped, deleted} {
		e, err := sub.next(id, want)
		if err != nil {
			return nil, err
		}
		if n := len(all); n > 0 && e.GetCreatedAt() < all[n-1].GetCreatedAt() {
			return nil, fmt.Errorf("%v is of the time %d, and the event before of %d: the kubelet passes over what is older than what it knows",
				want, e.GetCreatedAt(), all[n-1].GetCreatedAt())
		}
		all = append(all, e)
	}
	return all, nil
}

// over returns nil when a deleted container has no further events except a repeated
// deletion, until the first event of a sandbox that is created now.
func (sub *subscription) over(ctx context.Context, s *subject, id string) error {
	next, err := s.probe(ctx)
	if err != nil {
		return err
	}
	late := time.After(eventTime)
	for {
		select {
		case e := <-sub.events:
			switch {
			case e.GetContainerId() == next || e.GetPodSandboxStatus().GetId() == next:
				return nil
			case e.GetContainerId() == id && e.GetContainerEventType() != deleted:
				return fmt.Errorf("behind %v the subscriber got %v of the same container", deleted, e.GetContainerEventType())
			}
		case err := <-sub.broken:
			return sub.ended("an event of another sandbox", err)
		case <-late:
			return fmt.Errorf("the subscriber got no event of another sandbox within %v", eventTime)
		}
	}
}

// comeAndGo creates a container, starts it, and removes it after its end. It lives long
// enough that no runtime sees the end before the start.
func (s *subject) comeAndGo(ctx context.Context) (*box, error) {
	return s.comeAndGoAs(ctx, do("sleep 100ms", "exit 7"))
}

func (s *subject) comeAndGoAs(ctx context.Context, program edit) (*box, error) {
	b, err := s.box(ctx, "do", program)
	if err != nil {
		return nil, err
	}
	if _, err := b.exited(ctx); err != nil {
		return nil, err
	}
	return b, b.remove(ctx)
}

func checkEvents(ctx context.Context, s *subject) error {
	sub, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer sub.cancel()
	b, err := s.comeAndGo(ctx)
	if err != nil {
		return err
	}
	if _, err := sub.life(b.id); err != nil {
		return err
	}
	return sub.over(ctx, s, b.id)
}

func checkEventsAtOnce(ctx context.Context, s *subject) error {
	sub, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer sub.cancel()
	b, err := s.comeAndGoAs(ctx, do("exit 7"))
	if err == nil {
		_, err = sub.life(b.id)
	}
	return err
}

func checkSandboxEvents(ctx context.Context, s *subject) error {
	sub, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer sub.cancel()
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := s.remove(ctx, p.id); err != nil {
		return err
	}
	all, err := sub.life(p.id)
	if err != nil {
		return err
	}
	want := p.config.GetMetadata().GetUid()
	for _, e := range all {
		if got := e.GetPodSandboxStatus().GetMetadata().GetUid(); got != want {
			return fmt.Errorf("%v of the sandbox has a status with the uid %q, want %q: the kubelet finds the Pod by it, and passes over an event without", e.GetContainerEventType(), got, want)
		}
	}
	return nil
}

func checkEventStatus(ctx context.Context, s *subject) error {
	sub, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer sub.cancel()
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	before, err := p.create(ctx, forever)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	e, err := sub.next(b.id, created)
	if err == nil {
		e, err = sub.next(b.id, started)
	}
	if err != nil {
		return err
	}
	if e.GetPodSandboxStatus().GetId() != b.pod.id || e.GetPodSandboxStatus().GetMetadata().GetUid() != b.pod.config.GetMetadata().GetUid() {
		return fmt.Errorf("the event has the sandbox %v, want %q", e.GetPodSandboxStatus(), b.pod.id)
	}
	if err := exactly(e.GetContainersStatuses(), before.id, b.id); err != nil {
		return fmt.Errorf("the event's container statuses, of all containers of the Pod: %w", err)
	}
	for _, st := range e.GetContainersStatuses() {
		if st.GetId() == b.id && st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return fmt.Errorf("the event of a start has the container as %v", st.GetState())
		}
	}
	return recent(e.GetCreatedAt())
}

func checkSubscribers(ctx context.Context, s *subject) error {
	one, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer one.cancel()
	two, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer two.cancel()
	b, err := s.comeAndGo(ctx)
	if err != nil {
		return err
	}
	_, first := one.life(b.id)
	_, second := two.life(b.id)
	return errors.Join(first, second)
}

// deafWindow is how much a subscriber that does not read lets its server send: the
// minimum that HTTP/2 allows, and gRPC does not widen a window whose size is set.
const deafWindow = 64 << 10

// deaf subscribes on a connection of its own and stops reading once the subscription is
// established.
func (s *subject) deaf(ctx context.Context) (leave func(), err error) {
	path, err := rpc.SocketPath(s.endpoint)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := grpc.NewClient("passthrough:///localhost", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(deafWindow), grpc.WithInitialConnWindowSize(deafWindow))
	if err != nil {
		return nil, err
	}
	leave = func() { _ = conn.Close() }
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		leave()
		return nil, unimplemented("GetContainerEvents", err)
	}
	sub := &subscription{make(chan *runtimeapi.ContainerEventResponse), make(chan error, 1), leave}
	enough := make(chan struct{})
	defer close(enough)
	go func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				sub.broken <- rpc.FromStatus(err)
				return
			}
			select {
			case sub.events <- e:
			case <-enough:
				return
			}
		}
	}()
	if err := s.stands(ctx, sub); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// checkSlowSubscriber runs a Pod whose annotations make its events so large that a few
// fill what the connection accepts without a reader.
func checkSlowSubscriber(ctx context.Context, s *subject) error {
	const filler, many = 60 << 10, 12
	leave, err := s.deaf(ctx)
	if err != nil {
		return err
	}
	defer leave()
	quick, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer quick.cancel()
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations["conformance.nodekit.dev/filler"] = strings.Repeat("x", filler)
	})
	if err != nil {
		return err
	}
	for i := range many {
		b, err := p.create(ctx, forever)
		if err != nil {
			return err
		}
		if err := b.remove(ctx); err != nil {
			return err
		}
		if err := quick.madeAndDeleted(b.id); err != nil {
			return fmt.Errorf("beside a subscriber that does not read, of container %d: %w", i+1, err)
		}
	}
	return nil
}

// madeAndDeleted waits for the events of a container that never ran: some runtimes also
// say that it has stopped.
func (sub *subscription) madeAndDeleted(id string) error {
	if _, err := sub.next(id, created); err != nil {
		return err
	}
	_, err := sub.next(id, deleted)
	var other otherError
	if errors.As(err, &other) && other.got == stopped {
		_, err = sub.next(id, deleted)
	}
	return err
}

func checkEventExit(ctx context.Context, s *subject) error {
	sub, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	defer sub.cancel()
	b, err := s.box(ctx, "do", do("sleep 100ms", "exit 7"))
	if err != nil {
		return err
	}
	var e *runtimeapi.ContainerEventResponse
	for _, want := range []runtimeapi.ContainerEventType{created, started, stopped} {
		if e, err = sub.next(b.id, want); err != nil {
			return err
		}
	}
	for _, st := range e.GetContainersStatuses() {
		if st.GetId() == b.id && st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED && st.GetExitCode() == 7 {
			return nil
		}
	}
	return fmt.Errorf("the event of an end with code 7 has the statuses %v", e.GetContainersStatuses())
}

package crisuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
)

const (
	// subscribeTime is how long a subscription may take that the runtime does
	// not confirm.
	subscribeTime = 500 * time.Millisecond
	// eventTime is how late an event may be.
	eventTime = 3 * time.Second
)

func eventRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-EVENT-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "tells a subscriber that a container is created, started, stopped and deleted, in this order",
		Spec:  spec("ContainerEventType", "Container created [...] Container started [...] Container stopped [...] Container deleted"),
		Check: withImage(checkEvents),
	}}
}

func checkEvents(ctx context.Context, s *subject) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, ready, broken := make(chan *runtimeapi.ContainerEventResponse, 100), make(chan struct{}), make(chan error, 1)
	go func() {
		broken <- s.Events(ctx, func() { close(ready) }, func(e *runtimeapi.ContainerEventResponse) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	}()
	select {
	case <-ready:
	case err := <-broken:
		if errors.Is(err, cri.ErrUnimplemented) {
			return conformance.NotApplicable("the runtime sends no events")
		}
		return err
	case <-time.After(subscribeTime):
	}
	id, err := s.comeAndGo(ctx)
	if err != nil {
		return err
	}
	late := time.After(eventTime)
	for want := runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT; want <= runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT; {
		select {
		case e := <-events:
			if e.GetContainerId() != id {
				continue
			}
			if e.GetContainerEventType() != want {
				return fmt.Errorf("the subscriber got %v, want %v", e.GetContainerEventType(), want)
			}
			want++
		case err := <-broken:
			return errors.Join(fmt.Errorf("the subscription ended before %v", want), err)
		case <-late:
			return fmt.Errorf("the subscriber got no %v within %v", want, eventTime)
		}
	}
	return nil
}

// comeAndGo makes a container, starts it, and removes it after its end.
func (s *subject) comeAndGo(ctx context.Context) (id string, err error) {
	if id, err = s.create(ctx, s.in.Target.Fail); err != nil {
		return "", err
	}
	if err := s.startContainer(ctx, id); err != nil {
		return "", err
	}
	if _, err := s.exited(ctx, id); err != nil {
		return "", err
	}
	if _, err := s.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		return "", fmt.Errorf("RemoveContainer: %w", err)
	}
	return id, nil
}

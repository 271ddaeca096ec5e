package cri

import (
	"context"
	"errors"
	"fmt"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/state"
)

// ChangeLimits changes the limits of a container on behalf of something other than a
// client: it calls apply and then records limits in Container.Config. c only identifies
// the container: apply receives it as it is on record at that time.
//
// The change takes its turn among the calls for the sandbox: apply overlaps only with
// StopContainer of other containers. If nothing stands in its way, or if ctx is that of
// an author's function running for the same sandbox, ChangeLimits calls apply at once
// and returns its error. Otherwise it returns nil, and apply runs after the calls in
// progress (the creation of the container may be one); its error is logged. Changes of
// one container keep their order. A server that is stopping makes no more changes.
//
// ErrNotFound means that the container does not exist, ErrFailedPrecondition that it
// has ended. It is safe for concurrent use.
type ChangeLimits func(ctx context.Context, c *Container, limits *runtimeapi.LinuxContainerResources, apply func(context.Context, *Container) error) error

// wish is a requested change of limits.
type wish struct {
	limits *runtimeapi.LinuxContainerResources
	apply  func(context.Context, *Container) error
}

// wishes are requests that wait for their turn, by container, in order. The zero wishes
// is ready to use.
type wishes struct {
	mu  sync.Mutex
	all map[string][]wish
}

// add appends a wish. first says that no other was waiting.
func (w *wishes) add(id string, one wish) (first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string][]wish{}
	}
	w.all[id] = append(w.all[id], one)
	return len(w.all[id]) == 1
}

// take removes and returns the wishes of a container.
func (w *wishes) take(id string) []wish {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all[id]
	delete(w.all, id)
	return all
}

// changeLimits is the author's ChangeLimits.
func (s *server) changeLimits(ctx context.Context, c *Container, limits *runtimeapi.LinuxContainerResources, apply func(context.Context, *Container) error) error {
	id := c.ID
	sb, err := s.table.Sandbox(c.Sandbox.ID)
	if err != nil {
		return err
	}
	now := func(ctx context.Context) error {
		s.fulfil(ctx, id) // earlier wishes come first
		return s.grant(ctx, id, wish{limits, apply})
	}
	if isAloneIn(ctx, sb) {
		return now(ctx)
	}
	if leave, ok := s.tryTurn(sb, id); ok {
		return s.inside(ctx, sb, leave, now)
	}
	if !s.wishes.add(id, wish{limits, apply}) {
		return nil
	}
	return s.calls.Go(func(ctx context.Context) {
		leave, err := s.turn(s.patience, sb, id)
		if err != nil {
			s.log.WarnContext(ctx, "limits are not changed: the server stops", "container", id, "wishes", len(s.wishes.take(id)))
			return
		}
		defer leave()
		s.fulfil(podContext(ctx, sb.Now()), id)
	})
}

// fulfil grants the wishes that wait for a container. It requires the container's turn,
// or the gate to be held alone.
func (s *server) fulfil(ctx context.Context, id string) {
	for _, w := range s.wishes.take(id) {
		if err := s.grant(ctx, id, w); err != nil && !errors.Is(err, ErrNotFound) { // not found: it was removed meanwhile, or never created
			s.log.WarnContext(ctx, "changing limits behind other calls", "container", id, "err", err)
		}
	}
}

// grant requires the container's turn, or the gate to be held alone.
func (s *server) grant(ctx context.Context, id string, w wish) error {
	c, err := s.table.Container(id)
	if err != nil {
		return err
	}
	return s.limit(ctx, c, w.limits, w.apply)
}

// limit has apply change the limits of a container, and records them.
func (s *server) limit(ctx context.Context, c *state.Container, limits *runtimeapi.LinuxContainerResources, apply func(context.Context, *Container) error) error {
	next := viewContainer(c.Copy())
	if next.Exit != nil {
		return ErrFailedPrecondition.Errorf("container %q: it has ended", next.ID)
	}
	if err := s.guard("UpdateContainer", func() error { return apply(ctx, next) }); err != nil {
		return fmt.Errorf("updating container %q: %w", next.ID, err)
	}
	s.table.Limit(c, limits)
	return nil
}

// tryTurn is turn if that need not wait. Otherwise ok is false.
func (s *server) tryTurn(sb *state.Sandbox, id string) (leave func(), ok bool) {
	out, ok := sb.Gate.TryShare()
	if !ok {
		return nil, false
	}
	c, err := s.table.Container(id)
	if err != nil {
		return out, true
	}
	done, ok := c.Turn.TryAlone()
	if !ok {
		out()
		return nil, false
	}
	return func() { done(); out() }, true
}

// turn waits until only stops of other containers are inside the sandbox.
func (s *server) turn(ctx context.Context, sb *state.Sandbox, id string) (leave func(), err error) {
	out, err := sb.Gate.Share(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.table.Container(id)
	if err != nil {
		return out, nil //nolint:nilerr // who has the turn sees it again
	}
	done, err := c.Turn.Alone(ctx)
	if err != nil {
		out()
		return nil, err
	}
	return func() { done(); out() }, nil
}

type aloneKey struct{}

// aloneIn marks the context of a call that has passed the sandbox's gate alone.
func aloneIn(ctx context.Context, sb *state.Sandbox) context.Context {
	return context.WithValue(ctx, aloneKey{}, sb)
}

func isAloneIn(ctx context.Context, sb *state.Sandbox) bool { return ctx.Value(aloneKey{}) == sb }

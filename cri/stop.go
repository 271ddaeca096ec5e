package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
)

// exitReport is how long Watch may take to report the exit of a stopped container before
// the end is recorded without its exit code.
const exitReport = 2 * time.Second

// errStopped is the cause when a checkpoint or a start is ended early.
var errStopped = ErrFailedPrecondition.Errorf("something of its pod is being stopped or removed")

// StopContainer stops the container. It succeeds if the container is unknown or has
// ended. A second stop with less grace hastens the first.
func (s *server) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := s.table.Container(req.GetContainerId())
	if errors.Is(err, ErrNotFound) {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(flight.Seconds(req.GetTimeout()))
	c.Deadline.Hasten(deadline)
	defer c.Sandbox.Saving.Break(errStopped)()
	defer breakStart(c, deadline)()
	leave, err := c.Sandbox.Gate.Share(ctx)
	if err != nil {
		return nil, err
	}
	err = s.inside(ctx, c.Sandbox, leave, func(ctx context.Context) error { return s.stopUntil(ctx, c, deadline) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// breakStart breaks a start of the container that is still in progress at the deadline,
// unless over is called before: until then, the start may still result in a program that
// can be asked to end.
func breakStart(c *state.Container, deadline time.Time) (over func()) {
	late, done := time.NewTimer(time.Until(deadline)), make(chan struct{})
	go func() {
		defer late.Stop()
		select {
		case <-late.C:
			defer c.Starting.Break(errStopped)()
			<-done
		case <-done:
		}
	}()
	return func() { close(done) }
}

// stopUntil stops the container: it asks the author to stop it with the remaining grace,
// and again if the stop was hastened. It requires the sandbox's gate, shared or alone.
func (s *server) stopUntil(ctx context.Context, c *state.Container, deadline time.Time) error {
	c.Deadline.Hasten(deadline)
	leave, err := c.Turn.Alone(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if c.Now().Exit != nil {
		return nil
	}
	err = c.Deadline.Meet(ctx, deadline, func(ctx context.Context, by time.Time) error { return s.stop(ctx, c, by) })
	if err != nil {
		return fmt.Errorf("stopping container %q: %w", c.Now().ID, err)
	}
	return s.awaitExit(ctx, c)
}

// stop calls the author.
func (s *server) stop(ctx context.Context, c *state.Container, by time.Time) error {
	next := viewContainer(c.Copy())
	if next.Exit != nil {
		return nil
	}
	grace := max(time.Until(by), 0)
	if !next.Running() {
		grace = 0 // its program never ran: there is nothing to ask
	}
	err := s.guard("StopContainer", func() error { return s.rt.StopContainer(ctx, next, grace) })
	if err == nil && next.Exit != nil {
		s.table.Exit(c, record.Exit(*next.Exit))
	}
	return err
}

// awaitExit waits for Watch to report the exit of the container that StopContainer
// stopped.
func (s *server) awaitExit(ctx context.Context, c *state.Container) error {
	now := c.Now()
	switch {
	case !now.Running():
		s.table.Exit(c, record.Exit{Code: 137, Reason: "Error", Message: "stopped before it was started"})
		return nil
	case s.rt.Watch == nil:
		s.table.Exit(c, record.Exit{Code: 137})
		return nil
	}
	late := time.NewTimer(exitReport)
	defer late.Stop()
	select {
	case <-c.Ended():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
	}
	s.log.ErrorContext(ctx, "no exit reported for a stopped container", "container", now.ID, "waited", exitReport)
	s.table.Exit(c, record.Exit{Code: 137, Reason: "ContainerStatusUnknown", Message: "it was stopped, and nobody reported its exit code"})
	return nil
}

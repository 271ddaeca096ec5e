package cri

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// longestGrace keeps a client's number of seconds within a Duration.
	longestGrace = 100 * 365 * 24 * time.Hour
	// exitReport is how long a stopped container's exit may take to come
	// through Watch before the end is recorded without its code.
	exitReport = 2 * time.Second
)

// StopContainer ends the container. It succeeds for an unknown container and
// for one that has ended. A second stop with less grace hastens the first.
func (s *server) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := s.index.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c == nil {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	deadline := time.Now().Add(graceOf(req.GetTimeout()))
	c.hasten(deadline)
	if err := c.sandbox.gate.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	err = s.detach(ctx, func(ctx context.Context) error {
		defer c.sandbox.gate.Release(1)
		return s.stopUntil(podContext(ctx, c.sandbox.cur.Load()), c, deadline)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func graceOf(seconds int64) time.Duration {
	return time.Duration(min(max(seconds, 0), int64(longestGrace/time.Second))) * time.Second
}

// hasten moves the container's end forward: a stop that is with the author
// with more time than that is interrupted and repeated with less.
func (c *container) hasten(deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopBy.IsZero() && !deadline.Before(c.stopBy) {
		return
	}
	c.stopBy = deadline
	if c.interrupt != nil {
		c.interrupt()
	}
}

// stopUntil ends the container: it asks the author to stop it with the grace
// that is left, and again when the stop was hastened. It wants the sandbox's
// gate, shared or alone.
func (s *server) stopUntil(ctx context.Context, c *container, deadline time.Time) error {
	c.hasten(deadline)
	if err := c.gate.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.gate.Release(1)
	for c.cur.Load().Exit == nil {
		hastened, err := s.stopOnce(ctx, c)
		if hastened && err != nil && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return fmt.Errorf("stopping container %q: %w", c.cur.Load().ID, err)
		}
		return s.awaitExit(ctx, c)
	}
	return nil
}

// stopOnce calls the author and reports whether the call was hastened.
func (s *server) stopOnce(ctx context.Context, c *container) (hastened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	by := c.stopBy
	c.interrupt = cancel
	c.mu.Unlock()
	next := c.copy()
	grace := max(time.Until(by), 0)
	if !next.Running() {
		grace = 0 // its program never ran: there is nobody to ask
	}
	err = s.guard("StopContainer", func() error { return s.rt.StopContainer(ctx, next, grace) })

	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupt = nil
	if err == nil && next.Exit != nil {
		s.commitExit(c, *next.Exit)
	}
	return c.stopBy.Before(by), err
}

// awaitExit waits for Watch to report the container that StopContainer ended.
func (s *server) awaitExit(ctx context.Context, c *container) error {
	cur := c.cur.Load()
	if s.rt.Watch != nil && cur.Running() {
		late := time.NewTimer(exitReport)
		defer late.Stop()
		select {
		case <-c.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			s.log.ErrorContext(ctx, "no exit reported for a stopped container", "container", cur.ID, "waited", exitReport)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !cur.Running():
		s.commitExit(c, Exit{Code: 137, Reason: "Error", Message: "stopped before it was started"})
	case s.rt.Watch == nil:
		s.commitExit(c, Exit{Code: 137})
	default:
		s.commitExit(c, Exit{Code: 137, Reason: "ContainerStatusUnknown", Message: "it was stopped, and nobody reported its exit code"})
	}
	return nil
}

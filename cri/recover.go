package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cri/internal/state"
)

// recover reads the records, lets the author correct them, and undoes interrupted
// creations and finishes interrupted removals. What cannot be undone now becomes visible,
// so that the kubelet removes it.
func (s *server) recover(ctx context.Context) error {
	if err := s.table.Load(); err != nil {
		return err
	}
	leave, err := s.holdAll(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.recoverWhole(ctx); err != nil {
		return err
	}
	if err := s.thaw(ctx); err != nil {
		return err
	}
	s.clearHalves(ctx)
	return nil
}

// recoverWhole passes copies of complete objects to the author and takes over its
// corrections.
func (s *server) recoverWhole(ctx context.Context) error {
	var sandboxes []*Sandbox
	var containers []*Container
	byID := map[string]*Sandbox{}
	for _, sb := range s.table.Sandboxes() {
		if sb.Whole() {
			view := viewSandbox(sb.Copy())
			byID[view.ID] = view
			sandboxes = append(sandboxes, view)
		}
	}
	for _, c := range s.table.Containers() {
		if c.Whole() {
			view := viewContainer(c.Copy())
			view.Sandbox = byID[view.Sandbox.ID]
			containers = append(containers, view)
		}
	}
	if s.rt.Limits != nil {
		s.rt.Limits(s.changeLimits)
	}
	if s.rt.Recover != nil {
		err := s.hand("Recover", func() error {
			return s.rt.Recover(ctx, slices.Clone(sandboxes), slices.Clone(containers))
		}, allPinned(sandboxes, containers)...)
		if err != nil {
			return err
		}
	}
	for _, sb := range sandboxes {
		if err := s.table.AdoptSandbox(sb.record()); err != nil {
			return err
		}
	}
	for _, c := range containers {
		if err := s.table.AdoptContainer(c.record()); err != nil {
			return err
		}
	}
	s.log.InfoContext(ctx, "records recovered", "sandboxes", len(sandboxes), "containers", len(containers))
	return nil
}

// holdAll keeps changes of limits behind all calls made here. NRI plugins may request
// such changes as soon as Recover lets them connect, and nobody else makes any calls yet.
func (s *server) holdAll(ctx context.Context) (leave func(), err error) {
	var leaves []func()
	leave = func() {
		for _, l := range leaves {
			l()
		}
	}
	for _, sb := range s.table.Sandboxes() {
		l, err := sb.Gate.Alone(ctx)
		if err != nil {
			leave()
			return nil, err
		}
		leaves = append(leaves, l)
	}
	return leave, nil
}

// clearHalves removes what is partly created or partly removed, the sandboxes in
// parallel. Its caller holds all gates.
func (s *server) clearHalves(ctx context.Context) {
	var g errgroup.Group
	for _, sb := range s.table.Sandboxes() {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(podContext(ctx, sb.Now()), rollbackTime)
			defer cancel()
			if err := s.clearHalf(ctx, sb); err != nil {
				s.log.ErrorContext(ctx, "clearing what a killed server left", "sandbox", sb.Now().ID, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions log, and return nil
}

func (s *server) clearHalf(ctx context.Context, sb *state.Sandbox) error {
	var errs []error
	for _, c := range s.table.ContainersOf(sb) {
		if !c.Whole() {
			errs = append(errs, s.removeContainer(ctx, c))
		}
	}
	if !sb.Whole() {
		if err := s.removeSandbox(ctx, sb); err != nil {
			age := time.Since(sb.Now().CreatedAt).Round(time.Second)
			errs = append(errs, fmt.Errorf("after %v: %w", age, err))
		}
	}
	return errors.Join(errs...)
}

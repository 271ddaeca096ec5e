package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// recover reads the records, lets the author correct them, undoes creations
// and finishes removals that were cut short, and fills the index. What cannot
// be undone now becomes visible, so that the kubelet removes it.
func (s *server) recover(ctx context.Context) error {
	sandboxes, sandboxPhases, err := s.records.loadSandboxes()
	if err != nil {
		return err
	}
	containers, containerPhases, err := s.records.loadContainers(sandboxes)
	if err != nil {
		return err
	}
	whole := func(c *Container) bool {
		return containerPhases[c.ID] == live && sandboxPhases[c.Sandbox.ID] == live
	}
	for id, sb := range sandboxes {
		s.index.sandboxes[id] = newSandbox(sb)
	}
	for _, c := range containers {
		if !whole(c) && c.Exit == nil {
			c.Exit = Exit{Code: 137, Reason: "ContainerStatusUnknown", Message: "the server ended while it made or removed the container"}.normal()
		}
		s.add(newContainer(s.index.sandboxes[c.Sandbox.ID], c))
	}
	if err := s.recoverWhole(ctx, sandboxPhases, whole); err != nil {
		return err
	}
	s.clearHalves(ctx, sandboxPhases, whole)
	return nil
}

// recoverWhole hands the author copies of what is complete and takes over what
// it corrected.
func (s *server) recoverWhole(ctx context.Context, phases map[string]phase, whole func(*Container) bool) error {
	var sandboxes []*Sandbox
	var containers []*Container
	byID := map[string]*Sandbox{}
	for _, sb := range s.index.allSandboxes() {
		if phases[sb.ID] == live {
			byID[sb.ID] = s.index.sandboxes[sb.ID].copy()
			sandboxes = append(sandboxes, byID[sb.ID])
		}
	}
	for _, c := range s.index.allContainers() {
		if whole(c) {
			dup := *c
			dup.Sandbox = byID[c.Sandbox.ID]
			containers = append(containers, &dup)
		}
	}
	if s.rt.Recover != nil {
		if err := s.guard("Recover", func() error { return s.rt.Recover(ctx, sandboxes, containers) }); err != nil {
			return err
		}
	}
	for _, sb := range sandboxes {
		if err := s.adoptRecovered(sb); err != nil {
			return err
		}
	}
	for _, c := range containers {
		if err := s.adoptRecoveredContainer(c); err != nil {
			return err
		}
	}
	s.log.InfoContext(ctx, "records recovered", "sandboxes", len(sandboxes), "containers", len(containers))
	return nil
}

func (s *server) adoptRecovered(sb *Sandbox) error {
	m := s.index.sandboxes[sb.ID]
	was := m.cur.Load()
	m.cur.Store(sb)
	if was.Ready == sb.Ready && string(was.State) == string(sb.State) && slices.Equal(was.IPs, sb.IPs) {
		return nil
	}
	return s.records.putSandbox(sb, live)
}

func (s *server) adoptRecoveredContainer(c *Container) error {
	m := s.index.containers[c.ID]
	was := m.cur.Load()
	if c.Exit != nil {
		c.Exit = c.Exit.normal()
		if was.Exit == nil {
			close(m.ended)
		}
	}
	m.cur.Store(c)
	same := string(was.State) == string(c.State) && was.ImageRef == c.ImageRef && was.LogPath == c.LogPath
	if same && (was.Exit == nil) == (c.Exit == nil) {
		return nil
	}
	return s.records.putContainer(c, live)
}

// clearHalves removes what is half created or half removed, the sandboxes in
// parallel.
func (s *server) clearHalves(ctx context.Context, phases map[string]phase, whole func(*Container) bool) {
	var g errgroup.Group
	for _, sb := range slices.Collect(maps.Values(s.index.sandboxes)) {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(podContext(ctx, sb.cur.Load()), rollbackTime)
			defer cancel()
			var errs []error
			for _, c := range s.index.containersOf(sb) {
				if !whole(c.cur.Load()) {
					errs = append(errs, s.removeContainer(ctx, c))
				}
			}
			id := sb.cur.Load().ID
			if phases[id] != live {
				errs = append(errs, s.removeHalf(ctx, sb))
			}
			s.logged(ctx, "clearing what a killed server left", errors.Join(errs...), "sandbox", id)
			return nil
		})
	}
	_ = g.Wait() // the functions log, and return nil
}

// removeHalf removes a sandbox whose creation or removal was cut short.
func (s *server) removeHalf(ctx context.Context, sb *sandbox) error {
	half := sb.copy()
	half.Ready = false
	sb.cur.Store(half)
	if err := s.removeSandbox(ctx, sb); err != nil {
		return fmt.Errorf("after %v: %w", time.Since(half.CreatedAt).Round(time.Second), err)
	}
	return nil
}

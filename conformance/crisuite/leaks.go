package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// settleTime is how long the kernel and the runtime may take to take things
// down after RemovePodSandbox.
const settleTime = 3 * time.Second

func leakRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-LEAK-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "leaves nothing of a removed sandbox on the machine",
		Spec: spec("StopPodSandbox", "StopPodSandbox stops any running process that is part of the sandbox and reclaims network resources "+
			"(e.g., IP addresses) allocated to the sandbox."),
		Check: checkNothingLeft,
	}}
}

// checkNothingLeft compares the machine after one sandbox with that after
// some more, so that what a runtime makes once (a bridge, a table, a monitor)
// is no leak. A runtime that the suite starts as root has a network namespace
// of its own, where everything that is new is its doing; elsewhere only what
// bears a name of the sandboxes counts.
func checkNothingLeft(ctx context.Context, in *input) error {
	a := &audit{in: in}
	if len(in.Target.Exec) > 0 && os.Geteuid() == 0 {
		if err := a.isolate(); err != nil {
			return err
		}
		defer func() { a.forget() }()
	}
	s, err := start(ctx, in, a.enter)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	if err := a.comeAndGo(ctx, s, "first"); err != nil {
		return err
	}
	if err := a.before(s); err != nil {
		return err
	}
	for i := range 3 {
		if err := a.comeAndGo(ctx, s, fmt.Sprintf("more%d", i)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if left := a.settled(ctx); len(left) > 0 {
		return fmt.Errorf("three sandboxes came and went, and left %d things: %s", len(left), join(left))
	}
	return nil
}

// audit is what the leak rule knows of the machine.
type audit struct {
	in    *input
	netns string // the runtime's own, "" for none
	enter func() error
	names []string // by which a sandbox's things are known
	host  *leak.Snapshot
	net   *leak.Snapshot
}

func (a *audit) isolate() error {
	path := filepath.Join(a.in.TempDir, "netns")
	if err := netns.Create(path); err != nil {
		return fmt.Errorf("making a network namespace for the runtime: %w", err)
	}
	a.netns, a.enter = path, enterNetNS(path)
	return nil
}

func (a *audit) forget() {
	if err := netns.Remove(a.netns); err != nil {
		a.in.Log.Warn("removing the runtime's network namespace", "err", err)
	}
}

// comeAndGo makes a sandbox and removes it.
func (a *audit) comeAndGo(ctx context.Context, s *subject, name string) error {
	config := s.sandbox(name)
	id, err := s.run(ctx, config)
	if err != nil {
		return err
	}
	a.names = append(a.names, short(id), config.GetMetadata().GetUid())
	return s.remove(ctx, id)
}

// short is the part of an id that tools make names of.
func short(id string) string { return id[:min(len(id), 12)] }

func (a *audit) before(s *subject) (err error) {
	marker := s.root
	if marker == "" {
		marker = s.mark
	}
	a.host, err = leak.Take(leak.Scope{
		Kinds:  []leak.Kind{leak.Mount, leak.Namespace, leak.Cgroup, leak.Process, leak.Loop, leak.Link, leak.Address, leak.NFT},
		Marker: marker,
	})
	if err != nil || a.netns == "" {
		return err
	}
	return netns.Do(a.netns, func() (err error) {
		a.net, err = leak.Take(leak.Scope{Kinds: []leak.Kind{leak.Link, leak.Address, leak.NFT}})
		return err
	})
}

// settled looks again until nothing of the runtime's is left or ctx ends.
func (a *audit) settled(ctx context.Context) []leak.Leak {
	for {
		left := a.look()
		if len(left) == 0 || ctx.Err() != nil {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (a *audit) look() []leak.Leak {
	now, cancel := context.WithCancel(context.Background())
	cancel() // Settled looks once
	left := slices.DeleteFunc(leak.Settled(now, a.host), a.foreign)
	if a.net == nil {
		return left
	}
	err := netns.Do(a.netns, func() error {
		left = append(left, leak.Settled(now, a.net)...)
		return nil
	})
	if err != nil {
		left = append(left, leak.Leak{Kind: leak.Audit, Name: err.Error()})
	}
	return left
}

// foreign reports whether a thing may be somebody else's: the audit of
// processes is narrowed by the runtime's directory, and everything below that
// directory is the runtime's.
func (a *audit) foreign(l leak.Leak) bool {
	if l.Kind == leak.Audit || (l.Kind == leak.Process && len(a.in.Target.Exec) > 0) {
		return false
	}
	return !slices.ContainsFunc(append(a.names, a.in.TempDir), func(name string) bool {
		return strings.Contains(l.Name, name)
	})
}

func join(left []leak.Leak) string {
	errs := make([]error, len(left))
	for i, l := range left {
		errs[i] = errors.New(l.String())
	}
	return strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
}

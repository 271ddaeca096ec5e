package cri_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// TestAuthorChangesTooMuch: what an author may not change stays, whatever an author does.
func TestAuthorChangesTooMuch(t *testing.T) {
	_, rt := newFake()
	spoilSandbox := func(s *cri.Sandbox) {
		s.ID, s.Config, s.Handler, s.CreatedAt, s.Dir = "../other", nil, "none", time.Time{}, "/"
	}
	spoil := func(c *cri.Container) {
		spoilSandbox(c.Sandbox)
		c.ID, c.Sandbox, c.Config, c.CreatedAt, c.StartedAt, c.Dir = "../other", nil, nil, time.Time{}, time.Time{}, "/"
	}
	run, create, start := rt.RunSandbox, rt.CreateContainer, rt.StartContainer
	rt.RunSandbox = func(ctx context.Context, s *cri.Sandbox) error { defer spoilSandbox(s); return run(ctx, s) }
	rt.CreateContainer = func(ctx context.Context, c *cri.Container) error { defer spoil(c); return create(ctx, c) }
	rt.StartContainer = func(ctx context.Context, c *cri.Container) error { defer spoil(c); return start(ctx, c) }
	stop, remove := rt.StopSandbox, rt.RemoveContainer
	rt.StopSandbox = func(ctx context.Context, s *cri.Sandbox) error { defer spoilSandbox(s); return stop(ctx, s) }
	rt.RemoveContainer = func(ctx context.Context, c *cri.Container) error { defer spoil(c); return remove(ctx, c) }
	rt.Recover = func(_ context.Context, sandboxes []*cri.Sandbox, containers []*cri.Container) error {
		for i, s := range sandboxes {
			spoilSandbox(s)
			sandboxes[i] = nil
		}
		for i, c := range containers {
			c.ID, c.Sandbox, c.Config = "../other", nil, nil
			containers[i] = nil
		}
		return nil
	}
	n := serve(t, rt, t.TempDir())
	sandbox := n.sandbox("pod")
	id := n.started(sandbox, "box")
	n.stop()
	n = serve(t, rt, n.dir)
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.Metadata.GetName() != "box" || st.CreatedAt == 0 {
		t.Errorf("the container is %v", st)
	}
	if st := n.sandboxStatus(sandbox).Status; st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Metadata.GetName() != "pod" {
		t.Errorf("the sandbox is %v", st)
	}
	if err := n.removeSandbox(sandbox); err != nil {
		t.Error(err)
	}
	n.empty()
}

// TestAuthorKeepsWhatItWasGiven: goroutines that outlive a call read what the call was
// given, which the race detector watches, and what they change is not recorded.
func TestAuthorKeepsWhatItWasGiven(t *testing.T) {
	_, rt := newFake()
	var sandboxes []*cri.Sandbox
	var containers []*cri.Container
	done := make(chan struct{})
	var readers sync.WaitGroup
	read := func(look func() bool) {
		readers.Go(func() {
			for look() {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	keepSandbox := func(s *cri.Sandbox) {
		sandboxes = append(sandboxes, s)
		read(func() bool { again := *s; return again.ID != "" })
	}
	keep := func(c *cri.Container) {
		keepSandbox(c.Sandbox)
		containers = append(containers, c)
		read(func() bool { again := *c; return again.ID != "" })
	}
	run, create, start, stop := rt.RunSandbox, rt.CreateContainer, rt.StartContainer, rt.StopSandbox
	rt.RunSandbox = func(ctx context.Context, s *cri.Sandbox) error {
		err := run(ctx, s)
		keepSandbox(s)
		return err
	}
	rt.CreateContainer = func(ctx context.Context, c *cri.Container) error { err := create(ctx, c); keep(c); return err }
	rt.StartContainer = func(ctx context.Context, c *cri.Container) error { err := start(ctx, c); keep(c); return err }
	rt.StopSandbox = func(ctx context.Context, s *cri.Sandbox) error { keepSandbox(s); return stop(ctx, s) }
	n := serve(t, rt, t.TempDir())
	sandbox, other := n.sandbox("pod"), n.sandbox("other")
	id := n.started(sandbox, "box")
	if err := n.stopSandbox(other); err != nil {
		t.Error(err)
	}
	close(done)
	readers.Wait()
	container, running, stopped := n.status(id), n.sandboxStatus(sandbox).Status, n.sandboxStatus(other).Status
	for _, s := range sandboxes {
		s.ID, s.Ready, s.IPs = "../other", !s.Ready, append(s.IPs[:0], "203.0.113.9")
	}
	for _, c := range containers {
		c.ID, c.StartedAt, c.ImageRef, c.Exit = "../other", time.Time{}, "none", &cri.Exit{Code: 1}
	}
	if now := n.status(id); !proto.Equal(now, container) {
		t.Errorf("the container is %v, and was %v", now, container)
	}
	for pod, was := range map[string]*runtimeapi.PodSandboxStatus{sandbox: running, other: stopped} {
		if now := n.sandboxStatus(pod).Status; !proto.Equal(now, was) {
			t.Errorf("the sandbox is %v, and was %v", now, was)
		}
	}
}

// TestStartNeverBegun: who recovers says so, and the container can be started.
func TestStartNeverBegun(t *testing.T) {
	f, rt := newFake()
	rt.Recover = func(_ context.Context, _ []*cri.Sandbox, containers []*cri.Container) error {
		for _, c := range containers {
			c.StartedAt = time.Time{}
		}
		return nil
	}
	n := serve(t, rt, t.TempDir())
	id := n.started(n.sandbox("pod"), "box")
	n.stop()
	n = serve(t, rt, n.dir)
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("the container is %v", st)
	}
	if err := n.start(id); err != nil {
		t.Error(err)
	}
	starts := 0
	for _, call := range f.noted() {
		if call == "start box" {
			starts++
		}
	}
	if st := n.status(id); starts != 2 || st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%d starts, and the container is %v", starts, st)
	}
}

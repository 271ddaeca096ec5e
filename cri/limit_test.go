package cri_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// limiter is a runtime that changes limits unasked.
type limiter struct {
	*fake
	t      *testing.T
	rt     *cri.Runtime
	change cri.ChangeLimits
}

func newLimiter(t *testing.T) *limiter {
	f, rt := checkpointing()
	l := &limiter{fake: f, t: t, rt: rt}
	rt.Limits = func(change cri.ChangeLimits) { l.change = change }
	return l
}

// shares are limits that can be told apart.
func shares(n int64) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{CpuShares: n}
}

// want changes the limits of a container and returns what is closed when it was done.
func (l *limiter) want(ctx context.Context, sandbox, id string, n int64) (done chan struct{}, err error) {
	done = make(chan struct{})
	c := &cri.Container{ID: id, Sandbox: &cri.Sandbox{ID: sandbox}}
	return done, l.change(ctx, c, shares(n), func(_ context.Context, now *cri.Container) error {
		l.note(fmt.Sprintf("limit %s to %d", now.Config.Metadata.Name, n))
		close(done)
		return nil
	})
}

// soon fails the test when something is not done.
func soon(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it is not done")
	}
}

// isDone reports whether something is done by now.
func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// hasShares waits until a container has them on record.
func (n *node) hasShares(id string, want int64) {
	n.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		resp, err := n.Runtime.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			n.t.Fatal(err)
		}
		got := resp.GetStatus().GetResources().GetLinux().GetCpuShares()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the status has %d shares, want %d", got, want)
		}
	}
}

// TestChangeLimits: at once where nothing is under way, and on record, also after a
// restart.
func TestChangeLimits(t *testing.T) {
	l := newLimiter(t)
	dir := t.TempDir()
	n := serve(t, l.rt, dir)
	sb := n.sandbox("a")
	id, ended := n.started(sb, "main"), n.started(sb, "ended")
	done, err := l.want(t.Context(), sb, id, 7)
	if err != nil || !isDone(done) {
		t.Errorf("it is done %v, %v", isDone(done), err)
	}
	n.hasShares(id, 7)
	failure := errors.New("no")
	c := &cri.Container{ID: id, Sandbox: &cri.Sandbox{ID: sb}}
	err = l.change(t.Context(), c, shares(8), func(context.Context, *cri.Container) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("a change that fails: %v", err)
	}
	n.hasShares(id, 7)
	if err := n.stopContainer(ended, 0); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		sandbox, id string
		want        error
	}{
		"unknown sandbox":   {"nobody", id, cri.ErrNotFound},
		"unknown container": {sb, "nobody", cri.ErrNotFound},
		"ended container":   {sb, ended, cri.ErrFailedPrecondition},
	} {
		if done, err := l.want(t.Context(), c.sandbox, c.id, 9); !errors.Is(err, c.want) || isDone(done) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	n.stop()
	if _, err := l.want(t.Context(), sb, id, 9); !errors.Is(err, cri.ErrUnavailable) {
		t.Errorf("of a server that has stopped: %v", err)
	}
	serve(t, l.rt, dir).hasShares(id, 7)
}

// TestChangeLimitsWaits: behind a checkpoint of the sandbox, and behind the creation of
// the container, and not with them.
func TestChangeLimitsWaits(t *testing.T) {
	l := newLimiter(t)
	inside, goOn := make(chan string), make(chan struct{})
	hold := func(id string) {
		inside <- id
		<-goOn
	}
	l.rt.Checkpoints.Container = func(_ context.Context, c *cri.Container, file string) error {
		hold(c.ID)
		return os.WriteFile(file, nil, 0o600)
	}
	n := serve(t, l.rt, t.TempDir())
	sb := n.sandbox("a")
	id := n.started(sb, "main")
	behind := func(what, name string, call func() error) {
		t.Helper()
		called := make(chan error, 1)
		go func() { called <- call() }()
		id := <-inside
		done, err := l.want(t.Context(), sb, id, 7)
		if err != nil || isDone(done) {
			t.Errorf("it is done %v, %v", isDone(done), err)
		}
		last, err := l.want(t.Context(), sb, id, 8)
		if err != nil || isDone(last) {
			t.Errorf("a second one is done %v, %v", isDone(last), err)
		}
		goOn <- struct{}{}
		soon(t, done)
		soon(t, last)
		if err := <-called; err != nil {
			t.Fatal(err)
		}
		n.hasShares(id, 8)
		all := l.noted()
		if diff := cmp.Diff([]string{what, "limit " + name + " to 7", "limit " + name + " to 8"}, all[len(all)-3:]); diff != "" {
			t.Errorf("the order (-want +got):\n%s", diff)
		}
	}
	behind("resume main", "main", func() error {
		_, err := n.Runtime.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: filepath.Join(t.TempDir(), "a")})
		return err
	})
	l.rt.CreateContainer = func(_ context.Context, c *cri.Container) error {
		hold(c.ID)
		l.note("creation over")
		return nil
	}
	behind("creation over", "second", func() error {
		n.container(sb, "second")
		return nil
	})
}

// TestChangeLimitsBesideStops: a stop that takes long holds up no change of another
// container, and one of its own is no use behind it.
func TestChangeLimitsBesideStops(t *testing.T) {
	l := newLimiter(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	l.rt.StopContainer = func(_ context.Context, c *cri.Container, _ time.Duration) error {
		inside <- struct{}{}
		<-goOn
		l.end(c.ID, 0)
		return nil
	}
	n := serve(t, l.rt, t.TempDir())
	sb := n.sandbox("a")
	first, second := n.started(sb, "first"), n.started(sb, "second")
	stopped := make(chan error, 1)
	go func() { stopped <- n.stopContainer(first, 1000) }()
	<-inside
	own, err := l.want(t.Context(), sb, first, 7)
	if err != nil || isDone(own) {
		t.Errorf("of the container itself it is done %v, %v", isDone(own), err)
	}
	other, err := l.want(t.Context(), sb, second, 7)
	if err != nil || !isDone(other) {
		t.Errorf("of another it is done %v, %v", isDone(other), err)
	}
	close(goOn)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	n.stop() // behind which nothing is done
	if isDone(own) {
		t.Error("the limits of an ended container were changed")
	}
}

// TestChangeLimitsWithin: a call of the author's may change limits in its sandbox.
func TestChangeLimitsWithin(t *testing.T) {
	l := newLimiter(t)
	n := serve(t, l.rt, t.TempDir())
	sb := n.sandbox("a")
	first := n.started(sb, "first")
	within := func(ctx context.Context, _ *cri.Container) error {
		if _, err := l.want(t.Context(), sb, first, 6); err != nil { // from elsewhere
			return err
		}
		done, err := l.want(ctx, sb, first, 7)
		if !isDone(done) {
			t.Error("it is not done")
		}
		return err
	}
	l.rt.CreateContainer, l.rt.StartContainer = within, within
	n.started(sb, "second")
	n.hasShares(first, 7)
}

// TestChangeLimitsInRecover: what Recover corrects does not undo what somebody wants
// changed meanwhile.
func TestChangeLimitsInRecover(t *testing.T) {
	l := newLimiter(t)
	dir := t.TempDir()
	n := serve(t, l.rt, dir)
	sb := n.sandbox("a")
	id := n.started(sb, "main")
	n.stop()
	l.rt.Recover = func(ctx context.Context, _ []*cri.Sandbox, _ []*cri.Container) error {
		_, err := l.want(ctx, sb, id, 7)
		return err
	}
	serve(t, l.rt, dir).hasShares(id, 7)
}

// TestChangeLimitsBesideThaw: nor is it done while what a killed server left is cleared up.
func TestChangeLimitsBesideThaw(t *testing.T) {
	l := newLimiter(t)
	dir := t.TempDir()
	n := serve(t, l.rt, dir)
	sb := n.sandbox("a")
	id := n.started(sb, "main")
	n.stop()
	if err := os.WriteFile(filepath.Join(dir, "pauses", sb), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.rt.Checkpoints.Resume = func(ctx context.Context, c *cri.Container) error {
		done, err := l.want(ctx, sb, c.ID, 7)
		if isDone(done) {
			t.Error("it is done beside Resume")
		}
		return err
	}
	serve(t, l.rt, dir).hasShares(id, 7)
}

// TestLimitsInForce: an author that gives a container other limits than it was asked for
// has these on record.
func TestLimitsInForce(t *testing.T) {
	l := newLimiter(t)
	l.rt.CreateContainer = func(_ context.Context, c *cri.Container) error {
		c.Config = proto.Clone(c.Config).(*runtimeapi.ContainerConfig)
		c.Config.Linux = &runtimeapi.LinuxContainerConfig{Resources: shares(5)}
		return nil
	}
	l.rt.UpdateContainer = func(_ context.Context, _ *cri.Container, limits *runtimeapi.LinuxContainerResources) error {
		limits.CpuShares++
		return nil
	}
	n := serve(t, l.rt, t.TempDir())
	id := n.started(n.sandbox("a"), "main")
	n.hasShares(id, 5)
	_, err := n.Runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: shares(6)})
	if err != nil {
		t.Fatal(err)
	}
	n.hasShares(id, 7)
}

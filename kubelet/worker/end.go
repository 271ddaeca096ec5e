package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// graceClock is the end of an ending Pod's grace. It only moves to an earlier
// time, and tells who waits on it.
type graceClock struct {
	mu       sync.Mutex
	deadline time.Time
	force    bool
	shrunk   chan struct{} // closed at the next change
}

func newGraceClock() *graceClock { return &graceClock{shrunk: make(chan struct{})} }

func (g *graceClock) set(deadline time.Time, grace *int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.deadline.IsZero() && !deadline.Before(g.deadline) {
		return
	}
	g.deadline, g.force = deadline, grace != nil && *grace == 0
	close(g.shrunk)
	g.shrunk = make(chan struct{})
}

func (g *graceClock) get() (deadline time.Time, force bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deadline, g.force
}

func (g *graceClock) changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shrunk
}

// killAll ends containers side by side and returns when all have ended.
func (w *worker) killAll(v *pod.View, kills []pod.Kill) error {
	errs := make([]error, len(kills))
	var group sync.WaitGroup
	for i, k := range kills {
		group.Go(func() { errs[i] = w.kill(v, k) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// kill ends one container within its grace: the preStop hook, then the stop
// signal with what is left. When the Pod's grace shrinks meanwhile, both are cut
// short.
func (w *worker) kill(v *pod.View, k pod.Kill) error {
	w.log.Info("killing a container", "container", k.Name, "reason", k.Reason, "message", k.Message, "grace", k.Grace)
	deadline := time.Now().Add(k.Grace)
	for {
		changed := w.grace.changed()
		if until, force := w.grace.get(); !until.IsZero() && until.Before(deadline) {
			deadline = until
			if !force {
				deadline = lastOf(deadline, time.Now().Add(2*time.Second))
			}
		}
		ctx, cancel := context.WithCancel(w.ctx)
		done := make(chan error, 1)
		go func() { done <- w.stopContainer(ctx, v, k, deadline) }()
		select {
		case err := <-done:
			cancel()
			return unlessGone("stopping container", k.ID, err)
		case <-changed:
			cancel()
			if err := <-done; err == nil {
				return nil
			}
			v = &pod.View{Pod: v.Pod, Seen: v.Seen, Was: v.Was} // the hook has had its turn
			k.Reason = ""
		}
	}
}

func lastOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *worker) stopContainer(ctx context.Context, v *pod.View, k pod.Kill, deadline time.Time) error {
	if k.Reason != "" && k.Reason != pod.KillSandbox {
		w.preStop(ctx, v, k, deadline)
	}
	left := max(time.Until(deadline), 0)
	if k.Grace >= 2*time.Second {
		left = max(left, 2*time.Second) // a hook that used up the grace leaves this
	}
	ctx, cancel := context.WithTimeout(ctx, left+callTimeout)
	defer cancel()
	_, err := w.config.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{
		ContainerId: k.ID, Timeout: int64(math.Ceil(left.Seconds())),
	})
	return err
}

// preStop runs the container's preStop hook, for as long as the grace lasts. A
// hook that fails does not keep the container.
func (w *worker) preStop(ctx context.Context, v *pod.View, k pod.Kill, deadline time.Time) {
	c := pod.Find(v.Pod, k.Name)
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil || k.Grace == 0 {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := w.hook(ctx, c, c.Lifecycle.PreStop, target{k.ID, address(v)}); err != nil && ctx.Err() == nil {
		w.log.Warn("preStop hook failed", "container", k.Name, "err", err)
	}
}

// end takes everything of the ended Pod away and removes its object. Each part
// is idempotent, so a failure or a crash is followed by doing all of it again.
func (w *worker) end(v *pod.View) (again time.Time, done bool) {
	begun := time.Now()
	if err := w.takeAway(v); err != nil {
		return w.later("taking the Pod away", err), false
	}
	if err := w.config.Objects.Remove(w.ctx, v.Pod); err != nil {
		return w.later("removing the Pod's object", err), false
	}
	w.step(pod.StepEnd, "", begun, nil)
	return time.Time{}, true
}

func (w *worker) takeAway(v *pod.View) error {
	w.config.Probes.Forget(v.Pod.UID)
	for _, s := range v.Seen.Sandboxes {
		if err := w.removeSandbox(w.ctx, s.ID); err != nil {
			return err
		}
	}
	if err := w.release(v.Pod); err != nil {
		return err
	}
	if err := w.config.Builder.Clean(v.Pod); err != nil {
		return fmt.Errorf("removing the Pod's files: %w", err)
	}
	if err := w.config.Cgroups.Remove(w.config.Builder.PodCgroup(v.Pod)); err != nil {
		return fmt.Errorf("removing the Pod's cgroup: %w", err)
	}
	return w.config.Builder.RemoveDir(v.Pod.UID)
}

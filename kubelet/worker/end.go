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

// leastGrace is the time that a container has for its stop signal even if its hook, or
// waiting for other containers, has used up the grace period.
const leastGrace = 2 * time.Second

// graceClock is the end of a terminating Pod's grace period. It only moves to an
// earlier time, and notifies those who wait for it. Once set, it runs by the monotonic
// clock: changing the wall clock has no effect.
type graceClock struct {
	mu       sync.Mutex
	deadline time.Time     // with a monotonic reading; zero before the first set
	seconds  int64         // the grace period requested last
	shrunk   chan struct{} // closed at the next change
}

func newGraceClock() *graceClock { return &graceClock{shrunk: make(chan struct{})} }

// set sets the end of the grace period by the wall clock, and its full length; nil
// means unknown. The remaining time is never more than the full length, whatever
// happened to the wall clock since the end was written. Once set, only a shorter grace
// period has an effect: the ends of two are not compared, because the clock may have
// been stepped between them.
func (g *graceClock) set(over time.Time, grace *int64) {
	now := time.Now()
	left, seconds := over.Sub(now), int64(math.MaxInt64)
	if grace != nil {
		seconds = *grace
		if int64(left/time.Second) >= seconds {
			left = time.Duration(seconds) * time.Second
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	first := g.deadline.IsZero()
	if !first && seconds >= g.seconds {
		return
	}
	if deadline := now.Add(left); first || deadline.Before(g.deadline) {
		g.deadline = deadline
	}
	g.seconds = seconds
	close(g.shrunk)
	g.shrunk = make(chan struct{})
}

func (g *graceClock) get() (deadline time.Time, force bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deadline, !g.deadline.IsZero() && g.seconds <= 0
}

func (g *graceClock) changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shrunk
}

// killAll stops containers in parallel and returns when all have ended.
func (w *worker) killAll(v *pod.View, kills []pod.Kill) error {
	errs := make([]error, len(kills))
	var group sync.WaitGroup
	for i, k := range kills {
		group.Go(func() { errs[i] = w.kill(v, k) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// kill stops one container within its grace period: first the preStop hook, then the
// stop signal with the remaining time. If the Pod's grace period shrinks meanwhile,
// that applies to both at once.
func (w *worker) kill(v *pod.View, k pod.Kill) error {
	w.log.Info("killing a container", "container", k.Name, "reason", k.Reason, "message", k.Message, "grace", k.Grace)
	w.tellKill(k)
	limit := time.Now().Add(k.Grace)
	if k.Reason != pod.KillSandbox && k.Reason != pod.KillUnknown && k.Grace > 0 {
		w.preStop(v, k, limit)
	}
	for {
		changed := w.grace.changed()
		ctx, cancel := context.WithCancel(w.ctx)
		done := make(chan error, 1)
		go func() { done <- w.stopContainer(ctx, k.ID, w.left(k, limit)) }()
		select {
		case err := <-done:
			cancel()
			return err
		case <-changed: // called again, with less time
			cancel()
			if err := <-done; err == nil {
				return nil
			}
		}
	}
}

// sooner returns the end of the kill's own grace period or of the Pod's, whichever is
// earlier.
func (g *graceClock) sooner(limit time.Time) time.Time {
	if until, _ := g.get(); !until.IsZero() && until.Before(limit) {
		return until
	}
	return limit
}

// left returns the remaining time of a kill. If a hook has used up the grace period,
// the container still gets a moment for its signal, unless the grace period is zero.
func (w *worker) left(k pod.Kill, limit time.Time) time.Duration {
	least := leastGrace
	if _, force := w.grace.get(); force || k.Grace < leastGrace {
		least = 0
	}
	return max(time.Until(w.grace.sooner(limit)), least)
}

func (w *worker) stopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+callTimeout)
	defer cancel()
	_, err := w.config.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{
		ContainerId: id, Timeout: int64(math.Ceil(grace.Seconds())),
	})
	return unlessGone("stopping container", id, err)
}

// preStop runs the container's preStop hook, no longer than the grace period. A failed
// hook does not keep the container alive.
func (w *worker) preStop(v *pod.View, k pod.Kill, limit time.Time) {
	c := pod.Find(v.Pod, k.Name)
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return
	}
	ctx, cancel := context.WithDeadline(w.ctx, limit)
	defer cancel()
	go func() { // ends the hook when the Pod's grace is over earlier
		for {
			changed := w.grace.changed()
			over := time.NewTimer(time.Until(w.grace.sooner(limit)))
			select {
			case <-changed:
			case <-over.C:
				cancel()
			case <-ctx.Done():
			}
			over.Stop()
			if ctx.Err() != nil {
				return
			}
		}
	}()
	if err := w.hook(ctx, c, c.Lifecycle.PreStop, target{k.ID, address(v)}); err != nil && ctx.Err() == nil {
		w.warn(k.Name, pod.EventFailedPreStop, "The preStop hook failed: "+err.Error())
		w.log.Warn("preStop hook failed", "container", k.Name, "err", err)
	}
}

// end removes everything of the terminated Pod, and then its object. Each part is
// idempotent: after a failure or a crash, all of it is done again.
func (w *worker) end(v *pod.View) (again time.Time, done bool) {
	begun := time.Now()
	if err := w.takeAway(v); err != nil {
		return w.later("taking the Pod away", err), false
	}
	if err := w.config.Objects.Remove(w.ctx, v.Pod); err != nil {
		return w.later("removing the Pod's object", err), false
	}
	if err := w.takeLate(v); err != nil {
		return w.later("taking away what came late", err), false
	}
	w.step(pod.StepEnd, "", begun, nil)
	return time.Time{}, true
}

// takeLate removes sandboxes that have appeared since the Pod was last observed: one
// whose creation was interrupted may appear nevertheless. The runtime reported it to
// this worker, and to nobody else.
func (w *worker) takeLate(v *pod.View) error {
	for w.woken() {
		seen, err := w.config.Observe(w.ctx, v.Pod.UID)
		if err != nil {
			return fmt.Errorf("observing the Pod: %w", err)
		}
		for _, s := range seen.Sandboxes {
			if err := w.removeSandbox(w.ctx, s.ID); err != nil {
				return err
			}
		}
	}
	return nil
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
	if err := w.config.Cgroups.Remove(v.Pod.UID); err != nil {
		return fmt.Errorf("removing the Pod's cgroup: %w", err)
	}
	return w.config.Builder.RemoveDir(v.Pod.UID)
}

package worker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Back-off of a worker whose own work fails: the runtime is away, a volume
// cannot be unmounted.
const (
	troubleMin = 50 * time.Millisecond
	troubleMax = 10 * time.Second
)

// worker is the life of one Pod in this process. What other goroutines give it
// goes through the first group of fields; the rest is its own.
type worker struct {
	config   *Config
	ctx      context.Context // of all its calls; carries the Pod's identity
	wake     chan struct{}
	spec     atomic.Pointer[v1.Pod]
	retry    atomic.Bool
	starting context.Context // ends when the Pod shall end
	stop     context.CancelFunc
	grace    *graceClock

	was     v1.PodStatus     // as last recorded
	last    *pod.Observation // as last seen
	ready   resources        // what the Pod has been given in this process
	blocks  blocks
	waiting waiting
	failed  *pod.RejectError
	trouble int // failures in a row
	log     *slog.Logger
}

func newWorker(ctx context.Context, c *Config, p *v1.Pod) *worker {
	id := pod.CallOf(p)
	w := &worker{
		config: c, ctx: call.WithPod(ctx, id), wake: make(chan struct{}, 1), grace: newGraceClock(),
		was: *p.Status.DeepCopy(), blocks: blocks{}, log: c.Logger.With("pod", id.String(), "uid", id.UID),
	}
	w.starting, w.stop = context.WithCancel(w.ctx)
	w.update(p)
	return w
}

// update gives the worker a newer version of its Pod. An ending Pod stays one.
func (w *worker) update(p *v1.Pod) {
	old := w.spec.Load()
	if old != nil && old.DeletionTimestamp != nil && p.DeletionTimestamp == nil {
		return
	}
	w.spec.Store(p)
	if old != nil && !changed(old, p) {
		return // our own status, most likely
	}
	if p.DeletionTimestamp != nil {
		w.grace.set(p.DeletionTimestamp.Time, p.DeletionGracePeriodSeconds)
		w.stop()
	}
	w.wakeUp()
}

// changed reports whether the versions differ in more than the status.
func changed(old, p *v1.Pod) bool {
	return !old.DeletionTimestamp.Equal(p.DeletionTimestamp) || !maps.Equal(old.Labels, p.Labels) ||
		!maps.Equal(old.Annotations, p.Annotations) || !equality.Semantic.DeepEqual(old.Spec, p.Spec)
}

func (w *worker) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run works until the Pod has ended (true) or the process goes (false).
func (w *worker) run() bool {
	defer w.stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		again, done := w.sync()
		if done {
			return true
		}
		if again.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(again))
		}
		select {
		case <-w.ctx.Done():
			return false
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// sync looks, plans and acts until there is nothing to do now. It returns when
// to look again even if nothing happens, zero for never, and whether the Pod is
// gone.
func (w *worker) sync() (again time.Time, done bool) {
	if w.retry.Swap(false) {
		w.waiting.retryNow()
		w.blocks.retryNow()
		w.ready.stale = true
	}
	for w.ctx.Err() == nil {
		view, err := w.look()
		if err != nil {
			return w.later("observing the Pod", err), false
		}
		w.config.Probes.Sync(view.Pod, view.Seen)
		plan := pod.Decide(view)
		if plan.Failed != nil {
			w.failed = plan.Failed
			continue
		}
		finished := view.Finished()
		if err := w.report(view); err != nil {
			return w.later("recording the status", err), false
		}
		if !finished && view.Finished() {
			continue // a finished Pod's plan is another
		}
		if plan.Ended {
			return w.end(view)
		}
		if plan.Empty() {
			return w.rest(view, plan.Again)
		}
		if until := w.waiting.until; plan.Sandbox != nil && time.Now().Before(until) {
			return sooner(until, plan.Again), false
		}
		if err := w.apply(view, &plan); err != nil {
			return w.later("carrying out the plan", err), false
		}
		w.trouble = 0
	}
	return time.Time{}, false
}

// look takes everything that is known of the Pod now.
func (w *worker) look() (*pod.View, error) {
	p := w.spec.Load()
	probes := w.config.Probes.Results(p.UID)
	seen, err := w.config.Observe(w.ctx, p.UID)
	if err != nil {
		return nil, err
	}
	pod.Recall(&w.was, seen)
	w.noteExits(p, seen)
	v := &pod.View{
		Pod: p, Was: &w.was, Seen: seen, Probes: probes, Blocks: w.blocks.now(),
		Wait: w.waiting.reason, Failed: w.failed, Now: time.Now(),
	}
	if p.DeletionTimestamp != nil {
		deadline, force := w.grace.get()
		v.Ending = &pod.Ending{Deadline: deadline, Force: force}
	}
	return v, nil
}

// rest is what a worker does before it sleeps: volumes follow their objects, and
// a finished Pod gives back what it holds beside its containers.
func (w *worker) rest(view *pod.View, again time.Time) (time.Time, bool) {
	if w.ready.stale {
		if err := w.refresh(view); err != nil && pod.Waiting(err) == nil {
			return w.later("bringing volumes up to date", err), false
		}
	}
	w.trouble = 0
	if !view.Finished() || w.ready.released {
		return again, false
	}
	if err := w.release(view.Pod); err != nil {
		return w.later("giving back volumes and devices", err), false
	}
	w.ready.released = true
	return again, false
}

// later logs the error and returns when to try again.
func (w *worker) later(what string, err error) time.Time {
	if w.ctx.Err() != nil || errors.Is(err, context.Canceled) && w.starting.Err() != nil {
		return time.Now()
	}
	w.trouble++
	w.log.Warn(what, "err", err, "failures", w.trouble)
	return time.Now().Add(pod.Backoff(w.trouble, troubleMin, troubleMax))
}

// sooner returns the earlier time; a zero time is never.
func sooner(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// step reports a step of the Pod.
func (w *worker) step(what, name string, begun time.Time, err error) {
	s := pod.Step{Pod: call.PodFrom(w.ctx), What: what, Name: name, Err: err, At: time.Now()}
	if !begun.IsZero() {
		s.Took = s.At.Sub(begun)
	}
	w.config.OnStep(s)
}

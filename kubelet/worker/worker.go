package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Back-off of a worker whose own work fails, for example because the runtime is
// unavailable or a volume cannot be unmounted.
const (
	troubleMin = 50 * time.Millisecond
	troubleMax = 10 * time.Second
	// troubleTold is the number of consecutive failures from which on they are
	// reported.
	troubleTold = 3
)

// inbox holds what other goroutines pass to a worker.
type inbox struct {
	wake  chan struct{}
	spec  atomic.Pointer[v1.Pod]
	retry atomic.Bool
	// retryPulls is set when one of the Pod's pull Secrets was created or changed.
	retryPulls atomic.Bool
	// queues is set while the worker waits for room on the node.
	queues atomic.Bool
	// held is the worker's last failure, nil after a success. The worker writes it.
	held atomic.Pointer[string]
}

// worker is the life of one Pod in this process. Everything but the inbox and grace is
// used only by its own goroutine.
type worker struct {
	inbox
	config   *Config
	ctx      context.Context // of all its calls; carries the Pod's identity
	starting context.Context // ends when the Pod is to terminate
	stop     context.CancelFunc
	grace    *graceClock

	was      v1.PodStatus     // as last recorded
	unsure   bool             // the last write failed, but may have taken effect
	sure     v1.PodStatus     // as last recorded for certain
	last     *pod.Observation // as last seen
	ready    resources        // what the Pod has been given in this process
	blocks   blocks
	resizes  resizes
	admitted bool
	freed    func() // reports that room on the node was freed
	waiting  waiting
	failed   *pod.RejectError
	trouble  trouble
	told     told
	log      *slog.Logger
}

// trouble counts the consecutive failures of the worker's own work, with the last one
// reported.
type trouble struct {
	count int
	said  string
}

func newWorker(ctx context.Context, c *Config, p *v1.Pod) *worker {
	id := pod.CallOf(p)
	w := &worker{
		inbox: inbox{wake: make(chan struct{}, 1)}, config: c, ctx: call.WithPod(ctx, id), grace: newGraceClock(),
		was: *p.Status.DeepCopy(), sure: *p.Status.DeepCopy(), blocks: blocks{}, resizes: newResizes(), log: c.Logger.With("pod", id.String(), "uid", id.UID),
	}
	w.starting, w.stop = context.WithCancel(w.ctx)
	w.update(p)
	return w
}

// update passes a newer version of its Pod to the worker. A terminating Pod stays one.
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

// woken reports whether somebody has woken the worker since it last looked.
func (w *worker) woken() bool {
	select {
	case <-w.wake:
		return true
	default:
		return false
	}
}

// run works until the Pod has ended (true) or the process ends (false).
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

// sync observes, plans and acts until there is nothing to do now. It returns when to do
// so again even if nothing happens, zero for never, and whether the Pod is gone.
func (w *worker) sync() (again time.Time, gone bool) {
	if w.retryPulls.Swap(false) {
		w.blocks.retryNow(true)
	}
	if w.retry.Swap(false) {
		w.waiting.retryNow()
		w.blocks.retryNow(false)
		w.ready.stale = true
	}
	done := ""
	for w.ctx.Err() == nil {
		view, err := w.look()
		if err != nil {
			return w.later("observing the Pod", err), false
		}
		plan := w.config.Decide(view)
		if plan.Failed != nil {
			w.reject(plan.Failed)
			continue
		}
		finished := view.Finished()
		if err := w.report(view); err != nil {
			return w.later("recording the status", err), false
		}
		if !finished && view.Finished() {
			continue // a finished Pod has a different plan
		}
		if plan.Ended {
			return w.end(view)
		}
		if view.Admitting && view.Ending == nil && w.failed == nil {
			return w.waiting.until, false
		}
		if plan.Empty() {
			return w.rest(view, plan.Again)
		}
		if until := w.waiting.until; plan.Sandbox != nil && time.Now().Before(until) {
			w.trouble = trouble{}
			w.held.Store(nil)
			return sooner(until, plan.Again), false
		}
		next := plan.String()
		if next == done {
			return w.later("carrying out the plan", fault.Internal.Errorf("the runtime answered OK to %s, and nothing changed", next)), false
		}
		if err := w.apply(view, &plan); err != nil {
			return w.later("carrying out the plan", err), false
		}
		done = next
	}
	return time.Time{}, false
}

// look collects everything that is known of the Pod now.
func (w *worker) look() (*pod.View, error) {
	p := w.spec.Load()
	seen, err := w.config.Observe(w.ctx, p.UID)
	if err != nil {
		return nil, err
	}
	// Before reading the results: an instance that this process sees for the first time
	// gets the results recorded in its status, or a restart would make it unready.
	w.config.Probes.Sync(p, seen)
	probes := w.config.Probes.Results(p.UID)
	pod.Recall(&w.was, seen)
	pod.RecallResources(&w.was, w.resizes.given, seen)
	w.noteExits(p, seen)
	w.resizes.forget(seen)
	w.admit(p, seen)
	settled, pending := w.settle(p)
	v := &pod.View{
		Pod: settled, Was: &w.was, Seen: seen, Probes: probes, Blocks: w.blocks.now(), Resizes: w.resizes.failed.now(),
		Pending: pending, Admitting: !w.admitted, Wait: w.waiting.reason, Failed: w.failed, Now: time.Now(),
	}
	if p.DeletionTimestamp != nil {
		deadline, force := w.grace.get()
		v.Ending = &pod.Ending{Deadline: deadline, Force: force}
	}
	return v, nil
}

// rest does the work before a worker sleeps: it updates volumes that follow objects,
// and releases what a finished Pod holds besides its containers.
func (w *worker) rest(view *pod.View, again time.Time) (time.Time, bool) {
	if due := w.ready.again; w.ready.stale || !due.IsZero() && !time.Now().Before(due) {
		if err := w.refresh(view); err != nil {
			return w.later("bringing volumes up to date", err), false
		}
	}
	w.trouble = trouble{}
	w.held.Store(nil)
	if at := w.ready.again; !at.IsZero() {
		again = sooner(at, again)
	}
	if !view.Finished() || w.ready.released {
		return again, false
	}
	if err := w.release(view.Pod); err != nil {
		return w.later("giving back volumes and devices", err), false
	}
	w.ready.released = true
	return again, false
}

// later logs the error, reports it if it is new, and returns when to retry.
func (w *worker) later(what string, err error) time.Time {
	if w.ctx.Err() != nil || errors.Is(err, context.Canceled) && w.starting.Err() != nil {
		return time.Now()
	}
	w.trouble.count++
	w.held.Store(new(fmt.Sprintf("%s: %v", what, err)))
	w.log.Warn(what, "err", err, "failures", w.trouble.count)
	if text := err.Error(); text != w.trouble.said && w.trouble.count >= troubleTold {
		w.trouble.said = text
		w.step(pod.StepWait, "Trouble", time.Time{}, fmt.Errorf("%s: %w", what, err))
		w.warn("", pod.EventFailedSync, fmt.Sprintf("%s: %v", what, err))
	}
	return time.Now().Add(pod.Backoff(w.trouble.count, troubleMin, troubleMax))
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

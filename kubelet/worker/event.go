package worker

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// quiet is how long a failure is not reported again: a worker retries much more often
// than people want to be told.
const quiet = 10 * time.Second

// told remembers recent reports, so that one occurrence is one event. It is used
// concurrently by containers that are stopped in parallel.
type told struct {
	mu   sync.Mutex
	till map[string]time.Time
}

// once reports whether the key is new, and remembers it for a while.
func (t *told) once(key string, lasts time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for k, till := range t.till {
		if !now.Before(till) {
			delete(t.till, k)
		}
	}
	if _, known := t.till[key]; known {
		return false
	}
	if t.till == nil {
		t.till = map[string]time.Time{}
	}
	t.till[key] = now.Add(lasts)
	return true
}

// event reports a success. container is "" for the Pod.
func (w *worker) event(container, reason, message string) {
	w.tellEvent(v1.EventTypeNormal, container, reason, message)
}

// warn reports a failure. The same failure is not reported again for a while.
func (w *worker) warn(container, reason, message string) {
	if w.told.once(container+" "+reason+" "+message, quiet) {
		w.tellEvent(v1.EventTypeWarning, container, reason, message)
	}
}

func (w *worker) tellEvent(kind, container, reason, message string) {
	w.config.Event(pod.Event{
		Pod: call.PodFrom(w.ctx), Field: pod.FieldOf(w.spec.Load(), container), Type: kind, Reason: reason, Message: message,
	})
}

// tellKill reports that a container is being stopped, once for each instance.
func (w *worker) tellKill(k pod.Kill) {
	if !w.told.once("killing "+k.ID, time.Hour) {
		return
	}
	message := "Stopping container " + k.Name
	if k.Reason != pod.KillEnding && k.Reason != pod.KillFinished {
		message += ": " + k.Message
	}
	w.event(k.Name, pod.EventKilling, message)
}

// tellBackOff reports containers that wait to be restarted after a failure, once for
// each instance that has ended.
func (w *worker) tellBackOff(old, status *v1.PodStatus) {
	before := map[string]string{} // the last instance for which that was reported, by container
	for _, list := range pod.Statuses(old) {
		for i := range list {
			if crashLoops(&list[i]) {
				before[list[i].Name] = list[i].ContainerID
			}
		}
	}
	for _, list := range pod.Statuses(status) {
		for i := range list {
			if s := &list[i]; crashLoops(s) && before[s.Name] != s.ContainerID {
				w.tellEvent(v1.EventTypeWarning, s.Name, pod.EventBackOff, s.State.Waiting.Message)
			}
		}
	}
}

func crashLoops(s *v1.ContainerStatus) bool {
	return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
}

// tellPending reports a resize that is not granted, if that is new.
func (w *worker) tellPending(old, status *v1.PodStatus) {
	now := pendingOf(status)
	if now == pendingOf(old) {
		return
	}
	switch now {
	case v1.PodReasonDeferred:
		w.tellEvent(v1.EventTypeWarning, "", pod.EventResizeDeferred, "The Pod's new resources wait for room on the node")
	case v1.PodReasonInfeasible:
		w.tellEvent(v1.EventTypeWarning, "", pod.EventResizeInfeasible, "The node is too small for the Pod's new resources")
	}
}

// pendingOf returns why a resize is not granted, or "".
func pendingOf(s *v1.PodStatus) string {
	for _, c := range s.Conditions {
		if c.Type == v1.PodResizePending && c.Status == v1.ConditionTrue {
			return c.Reason
		}
	}
	return ""
}

// reject marks the Pod as one that can never run, or not any longer, and reports why.
func (w *worker) reject(why *pod.RejectError) {
	if w.failed == nil {
		w.tellEvent(v1.EventTypeWarning, "", why.Reason, why.Message)
	}
	w.failed = why
}

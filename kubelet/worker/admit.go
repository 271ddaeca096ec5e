package worker

import (
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// admit requests the Pod's room on the node until it is admitted. A Pod that has a
// startTime in its status, or anything in the runtime, was admitted before and is not
// asked for again. A Pod that has to wait does not block others: its worker sleeps and
// is woken when room is freed.
func (w *worker) admit(p *v1.Pod, seen *pod.Observation) {
	switch {
	case w.admitted || w.failed != nil:
		return
	case pod.Terminal(w.was.Phase):
		w.admitted = true
		return
	case w.was.StartTime != nil || len(seen.Sandboxes) > 0 || len(seen.Containers) > 0:
		w.config.Admission.Adopt(pod.Settled(p, &w.was))
		w.admitted = true
		return
	case p.DeletionTimestamp != nil:
		return // it ends without having started
	}
	w.queues.Store(true) // before the request: room freed in between wakes this worker
	err := w.config.Admission.Admit(p)
	if err == nil {
		w.queues.Store(false)
		w.admitted = true
		w.waiting.clear()
		return
	}
	var reject *pod.RejectError
	if errors.As(err, &reject) {
		w.queues.Store(false)
		w.reject(reject)
		return
	}
	wait := pod.Waiting(waitFor("Admission", "room on the node", err))
	w.warn("", wait.Reason, wait.Error())
	if w.waiting.set(wait) {
		w.step(pod.StepWait, wait.Reason, time.Time{}, wait)
	}
}

// settle returns the Pod with the resources that are allocated to it. If its spec asks
// for others, settle requests them from the node first.
func (w *worker) settle(p *v1.Pod) (*v1.Pod, *pod.ResizePending) {
	if !w.admitted || !pod.Resized(p, &w.was) {
		return p, nil
	}
	settled := pod.Settled(p, &w.was)
	if p.DeletionTimestamp != nil || w.failed != nil || w.ready.released {
		return settled, nil
	}
	w.queues.Store(true)
	err := w.config.Admission.Resize(p)
	if err == nil {
		w.queues.Store(false)
		return p, nil
	}
	var reject *pod.RejectError
	if errors.As(err, &reject) {
		w.queues.Store(false)
		return settled, &pod.ResizePending{Reason: v1.PodReasonInfeasible, Message: reject.Message}
	}
	return settled, &pod.ResizePending{Reason: v1.PodReasonDeferred, Message: err.Error()}
}

// freed wakes the workers that wait for room on the node.
func (m *Manager) freed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if w.queues.Load() {
			w.wakeUp()
		}
	}
}

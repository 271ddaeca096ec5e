package worker

import (
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// report records the status computed from the view, if it has changed. A failed write
// may still have taken effect, so its status counts as recorded, because a phase must
// not be reverted, and is written again first.
func (w *worker) report(v *pod.View) error {
	if w.unsure {
		if err := w.record(v, w.was); err != nil {
			return err
		}
	}
	status := w.config.Status(v)
	if equality.Semantic.DeepEqual(status, w.was) {
		return nil
	}
	return w.record(v, status)
}

// record records a status.
func (w *worker) record(v *pod.View, status v1.PodStatus) error {
	err := w.config.Objects.SetStatus(w.ctx, v.Pod, &w.sure, &status)
	if errors.Is(err, fault.NotFound) && v.Ending != nil {
		err = nil
	}
	w.was, w.unsure = status, err != nil
	if err != nil {
		return err
	}
	old := w.sure
	w.sure = status
	w.tell(&old, &status)
	return nil
}

// tell reports changes of the status as steps.
func (w *worker) tell(old, status *v1.PodStatus) {
	if status.PodIP != "" && status.PodIP != old.PodIP {
		w.step(pod.StepNetwork, status.PodIP, time.Time{}, nil)
	}
	if pod.Ready(status) && !pod.Ready(old) {
		w.step(pod.StepReady, "", time.Time{}, nil)
	}
	w.tellBackOff(old, status)
	w.tellPending(old, status)
	if status.Phase != old.Phase {
		w.step(pod.StepPhase, string(status.Phase), time.Time{}, nil)
	}
}

// noteExits reports containers that have ended since the last observation. The first
// observation of a process reports none.
func (w *worker) noteExits(p *v1.Pod, seen *pod.Observation) {
	last := w.last
	w.last = seen
	if last == nil {
		return
	}
	exited := map[string]bool{}
	for _, c := range last.Containers {
		exited[c.ID] = c.State == pod.Exited
	}
	for _, c := range seen.Containers {
		if c.State != pod.Exited || exited[c.ID] || pod.Find(p, c.Name) == nil {
			continue
		}
		var err error
		if c.ExitCode != 0 {
			err = fault.FailedPrecondition.Errorf("exit code %d (%s)", c.ExitCode, c.Reason)
		}
		w.step(pod.StepExit, c.Name, c.StartedAt, err)
	}
}

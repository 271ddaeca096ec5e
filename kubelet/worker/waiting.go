package worker

import (
	"errors"
	"time"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Back-off of retries while waiting. A change that ends the wait is usually reported
// (Manager.Retry), so this is the safety net.
const (
	waitMin = 500 * time.Millisecond
	waitMax = 15 * time.Second
	// resizeMin and resizeMax are for a resize that the runtime rejects.
	resizeMin = time.Second
	resizeMax = time.Minute
	// pullMin and pullMax are the kubelet's image and restart back-off.
	pullMin = 10 * time.Second
	pullMax = 300 * time.Second
)

// waiting is what the Pod waits for before its sandbox can be created.
type waiting struct {
	reason *pod.WaitError
	until  time.Time
	count  int
}

// set records the reason and reports whether it is new.
func (w *waiting) set(reason *pod.WaitError) bool {
	news := w.reason == nil || w.reason.Error() != reason.Error()
	w.count++
	w.reason, w.until = reason, time.Now().Add(pod.Backoff(w.count, waitMin, waitMax))
	return news
}

func (w *waiting) clear() { *w = waiting{} }

func (w *waiting) retryNow() { w.until = time.Time{} }

// blocks are the containers whose last start did not succeed.
type blocks map[string]*block

type block struct {
	pod.Block
	count int
	// waits is set if an object or a plugin that appears may remove the cause at any
	// moment.
	waits bool
	// pulls is set if a change of the Pod's pull Secrets may remove the cause.
	pulls bool
}

// set records a failed start.
func (b blocks) set(name string, err error) *block {
	have := b[name]
	if have == nil {
		have = &block{}
		b[name] = have
	}
	have.count++
	have.Reason, have.Message, have.waits, have.pulls = "RunContainerError", err.Error(), false, false
	base, limit := pullMin, pullMax
	if start := (*pod.StartError)(nil); errors.As(err, &start) {
		have.Reason, have.pulls = start.Reason, start.Pull
	}
	switch have.Reason {
	case "CreateContainerConfigError", "ErrImageNeverPull":
		base, limit, have.waits = waitMin, waitMax, true
	case "ErrImagePull":
		if have.count > 1 {
			have.Reason = "ImagePullBackOff"
		}
	}
	if wait := pod.Waiting(err); wait != nil {
		base, limit, have.waits = waitMin, waitMax, true
	}
	have.Until = time.Now().Add(pod.Backoff(have.count, base, limit))
	return have
}

func (b blocks) clear(name string) { delete(b, name) }

// retryNow ends the back-off of blocks that wait for objects or plugins, or, with
// pulls, of those that a Secret may resolve.
func (b blocks) retryNow(pulls bool) {
	for _, have := range b {
		if have.waits && !pulls || have.pulls && pulls {
			have.Until = time.Time{}
		}
	}
}

// another records that the Pod has a new sandbox: containers that could not be created
// in the old one are retried at once.
func (b blocks) another() {
	for _, have := range b {
		if have.Reason == "CreateContainerError" {
			have.Until = time.Time{}
		}
	}
}

func (b blocks) now() map[string]pod.Block {
	out := make(map[string]pod.Block, len(b))
	for name, have := range b {
		out[name] = have.Block
	}
	return out
}

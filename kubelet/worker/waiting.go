package worker

import (
	"errors"
	"time"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Back-off of what is waited for and tried again. Whoever makes it possible
// usually tells (Manager.Retry), so this is the safety net.
const (
	waitMin = 500 * time.Millisecond
	waitMax = 15 * time.Second
	// resizeMin and resizeMax are for a resize that a runtime refuses.
	resizeMin = time.Second
	resizeMax = time.Minute
	// pullMin and pullMax are the kubelet's image and restart back-off.
	pullMin = 10 * time.Second
	pullMax = 300 * time.Second
)

// waiting is what the whole Pod waits for before its sandbox can be made.
type waiting struct {
	reason *pod.WaitError
	until  time.Time
	count  int
}

// set notes the reason and reports whether it is news.
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
	// waits is set when the cause may be mended at any moment by an object or a
	// plugin that comes.
	waits bool
	// pulls is set when one of the Pod's pull Secrets may mend it.
	pulls bool
}

// set notes a failed start.
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

// retryNow ends the back-off of what waits for something that may have come, or of
// pulls that a Secret may mend.
func (b blocks) retryNow(pulls bool) {
	for _, have := range b {
		if have.waits && !pulls || have.pulls && pulls {
			have.Until = time.Time{}
		}
	}
}

// another is told that the Pod has another sandbox: what could not be created in the
// one that ended is tried in this one without delay.
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

package simulation_test

import (
	"maps"
	"math"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// rules holds a life to what a user of Kubernetes may rely on. What it compares
// with is what truly happened, which the kubelet may not know: what the world
// keeps from it by a lost record or a call that nobody waited for is excused.
// life.mu guards it.
type rules struct {
	life *life
	pods map[types.UID]*record
}

// record is what users asked of a Pod, and what was told them of it.
type record struct {
	pod *v1.Pod // as it was asked for last
	// asked is when the Pod's end was asked for first, until when its grace is over.
	asked, until time.Time
	force        bool
	gone         bool // its object is removed
	crashed      bool // the process did not see that, and does not know its spec
	status       v1.PodStatus
	// known are the instances of which the status said that they ran; kept are those
	// of which a durable one did.
	known, kept map[string]bool
}

// object notes what is asked of a Pod.
func (r *rules) object(p *v1.Pod) {
	rec := r.pods[p.UID]
	if rec == nil {
		rec = &record{known: map[string]bool{}, kept: map[string]bool{}}
		r.pods[p.UID] = rec
	}
	rec.pod = p
	for _, c := range r.life.runtime.containers {
		if c.sandbox.uid == p.UID {
			spec, _ := find(p, c.name)
			c.doomed = c.doomed || spec.Image != c.image
		}
	}
	if d := p.DeletionTimestamp; d != nil {
		if rec.asked.IsZero() {
			rec.asked = time.Now()
		}
		rec.until, rec.force = d.Time, *p.DeletionGracePeriodSeconds == 0
	}
}

// taken notes that the Pod's object was removed by somebody else, and whether a
// process saw it.
func (rec *record) taken(now time.Time, seen bool) {
	if rec.asked.IsZero() {
		rec.asked = now
	}
	rec.until, rec.force, rec.gone, rec.crashed = now, true, true, !seen
}

func (rec *record) ending() bool { return !rec.asked.IsZero() }

func (rec *record) finished() bool { return terminal(rec.status.Phase) }

// crashed notes that a process died: what was not durable is forgotten.
func (r *rules) crashed() {
	for _, rec := range r.pods {
		rec.known = maps.Clone(rec.kept)
		rec.crashed = rec.crashed || rec.gone
		if p := r.life.store.pod; p != nil && p.UID == rec.pod.UID {
			rec.status = p.Status
			if d := p.DeletionTimestamp; d != nil {
				rec.until = d.Time // whole seconds, from its encoding
			}
		}
	}
}

// durable notes that the last status is.
func (rec *record) durable() { rec.kept = maps.Clone(rec.known) }

// instances returns those of the container that ever were, oldest first.
func (r *rules) instances(uid types.UID, name string) []*container {
	var list []*container
	for _, c := range r.life.runtime.all {
		if c.sandbox.uid == uid && c.name == name {
			list = append(list, c)
		}
	}
	return list
}

// runs reports whether a container of the Pod runs that the kubelet must know of.
func (l *life) runs(uid types.UID) bool {
	for _, c := range l.runtime.containers {
		if c.sandbox.uid == uid && c.running() && !c.stray {
			return true
		}
	}
	return false
}

// runsSandbox holds a new sandbox to the rules.
func (r *rules) runsSandbox(uid types.UID) {
	r.mayBegin(uid, "a sandbox")
	for _, s := range r.life.runtime.sandboxes {
		if s.uid == uid && s.ready && !s.stray {
			r.life.violate("one sandbox", "another is made while %s is ready", s.id)
		}
	}
}

// mayBegin holds something new of a Pod to the rules.
func (r *rules) mayBegin(uid types.UID, what string) {
	rec := r.pods[uid]
	switch {
	case rec.finished():
		r.life.violate("finished", "%s begins in a Pod that is %s", what, rec.status.Phase)
	case rec.ending() && rec.asked.Before(time.Now()):
		r.life.violate("finished", "%s begins %s after the Pod's end was asked for", what, time.Since(rec.asked))
	}
	for _, need := range []string{"room", "volumes", "devices", "cgroup"} {
		if !r.life.host.has[need+" of "+string(uid)] {
			r.life.violate("resources", "%s begins without the Pod's %s", what, need)
		}
	}
	for other, old := range r.pods {
		if other != uid && old.gone && !old.crashed && r.life.runs(other) {
			r.life.violate("one name", "%s begins while %s, which had its name before, still runs", what, other)
		}
	}
}

// starts holds the start of a container to the rules.
func (r *rules) starts(c *container) {
	uid := c.sandbox.uid
	before := r.instances(uid, c.name)
	var last *container // that ran before this one
	for _, other := range before {
		if other.running() {
			r.life.violate("one instance", "%s starts while %s runs", c.id, other.id)
		}
		if other != c && other.ran() {
			last = other
		}
	}
	if c.stray {
		return
	}
	r.mayBegin(uid, c.id)
	r.inOrder(c)
	if last != nil && !r.unknown(last) {
		r.restarts(c, last)
	}
}

// unknown reports whether the kubelet cannot know enough of the ended instance to
// decide what follows: its record was taken away, or it ran although nobody waited for
// that.
func (r *rules) unknown(c *container) bool {
	return c.stray || c.lost && (!r.pods[c.sandbox.uid].known[c.id] || r.pods[c.sandbox.uid].pod.Spec.RestartPolicy != v1.RestartPolicyNever)
}

// inOrder holds a start to the order of init containers.
func (r *rules) inOrder(c *container) {
	p := r.pods[c.sandbox.uid].pod
	_, place := find(p, c.name)
	if r.sameSecond(c.sandbox) {
		return
	}
	for i := range p.Spec.InitContainers {
		init := &p.Spec.InitContainers[i]
		switch {
		case place >= 0 && i >= place:
		case isSidecar(init) && !c.sandbox.started[init.Name]:
			r.life.violate("order", "%s starts before the sidecar %s has", c.id, init.Name)
		case !isSidecar(init) && !c.sandbox.done[init.Name]:
			r.life.violate("order", "%s starts before %s has succeeded", c.id, init.Name)
		}
	}
	if !r.life.isPlainInit(c.sandbox.uid, c.name) {
		return
	}
	for _, other := range r.life.runtime.all {
		_, place := find(p, other.name)
		if other.sandbox.uid == p.UID && place < 0 && other.running() && !other.stray {
			r.life.violate("order", "%s starts while %s runs", c.id, other.id)
		}
		if other.sandbox == c.sandbox && place < 0 && !other.stray && (!other.lost || r.pods[c.sandbox.uid].known[other.id]) {
			r.life.violate("order", "%s starts after %s was created", c.id, other.id)
		}
	}
}

// sameSecond reports whether an app container whose record was taken away began in
// the second in which the sandbox came. From a status that was read back nobody can
// tell to which sandbox it belonged.
func (r *rules) sameSecond(s *sandbox) bool {
	for _, c := range r.life.runtime.all {
		_, place := find(r.pods[s.uid].pod, c.name)
		if c.sandbox.uid == s.uid && c.sandbox != s && c.lost && place < 0 && c.started.Truncate(time.Second).Equal(s.created.Truncate(time.Second)) {
			return true
		}
	}
	return false
}

// restarts holds a start after an earlier instance to the restart policy and the
// back-off.
func (r *rules) restarts(c, last *container) {
	p := r.pods[c.sandbox.uid].pod
	spec, place := find(p, c.name)
	renewed := place >= 0 && c.sandbox != last.sandbox // init containers run again
	replaced := place < 0 && last.doomed               // another image comes whatever the policy
	if !renewed && !replaced && !r.restartable(p, spec, last) {
		r.life.violate("restart policy", "%s starts although %s ended with code %d and restartPolicy is %s", c.id, last.id, last.code, p.Spec.RestartPolicy)
	}
	if last.lost || c.sandbox != last.sandbox || c.hash() != last.hash() {
		return
	}
	if early := time.Until(last.finished.Add(last.delayInForce())); early > 0 {
		r.life.violate("back-off", "%s starts %s too early after %s", c.id, early, last.id)
	}
	c.delay = min(max(2*last.delayInForce(), 10*time.Second), 5*time.Minute)
}

// delayInForce is how long to wait after an instance: not at all after the first,
// and after one that ran for ten minutes.
func (c *container) delayInForce() time.Duration {
	if !c.started.IsZero() && c.finished.Sub(c.started) >= 10*time.Minute {
		return 0
	}
	return c.delay
}

// restartable says what the restart policy makes of an ended container.
func (r *rules) restartable(p *v1.Pod, spec *v1.Container, last *container) bool {
	_, place := find(p, spec.Name)
	switch {
	case isSidecar(spec):
		return true
	case place >= 0:
		return last.code != 0 && p.Spec.RestartPolicy != v1.RestartPolicyNever
	case p.Spec.RestartPolicy == v1.RestartPolicyAlways:
		return true
	case p.Spec.RestartPolicy == v1.RestartPolicyOnFailure:
		return last.code != 0
	default:
		return false
	}
}

// stops holds the stop of a container to the rules: its reason, its grace, which is
// what is left of the Pod's, in whole seconds and two at least, and that sidecars are
// stopped last.
func (r *rules) stops(c *container, timeout time.Duration) {
	rec := r.pods[c.sandbox.uid]
	if rec == nil || !c.running() || c.stray || rec.crashed {
		return
	}
	now := time.Now()
	first := c.stopped.IsZero()
	if first {
		c.stopped = now
	}
	reason := r.reason(c)
	if reason == "" && !rec.ending() {
		r.life.violate("no reason", "%s is stopped", c.id)
	}
	if rec.ending() {
		left := rec.until.Sub(now)
		if !rec.force {
			left = max(left, 2*time.Second)
		}
		left = time.Duration(math.Ceil(max(left, 0).Seconds())) * time.Second
		if timeout > left {
			r.life.violate("grace", "%s gets %s although %s are left", c.id, timeout, left)
		}
		if reason == "" && first && timeout < left {
			r.life.violate("grace", "%s gets only %s although %s are left", c.id, timeout, left)
		}
		if reason == "" && first {
			r.lastOfAll(c, rec)
		}
	}
}

// reason says why a container may be stopped although its Pod does not end.
func (r *rules) reason(c *container) string {
	rec := r.pods[c.sandbox.uid]
	limit := rec.pod.Spec.ActiveDeadlineSeconds
	switch {
	case c.failedHook:
		return "hook"
	case c.unhealthy("startup"), c.unhealthy("liveness"):
		return "unhealthy"
	case c.doomed:
		return "changed or unknown"
	case !c.sandbox.ready || r.life.runtime.sandbox(c.sandbox.id) == nil:
		return "sandbox"
	case rec.finished():
		return "finished"
	case limit != nil && (rec.status.StartTime == nil || time.Since(rec.status.StartTime.Time) >= time.Duration(*limit)*time.Second):
		return "deadline"
	}
	return ""
}

// lastOfAll holds the stop of a sidecar to the order: after the apps, and after the
// sidecars that follow it.
func (r *rules) lastOfAll(c *container, rec *record) {
	_, place := find(rec.pod, c.name)
	if place < 0 || r.life.isPlainInit(c.sandbox.uid, c.name) {
		return
	}
	for _, other := range r.life.runtime.containers {
		_, at := find(rec.pod, other.name)
		if other.sandbox.uid == c.sandbox.uid && other.running() && !other.stray && (at < 0 || at > place) {
			r.life.violate("stop order", "the sidecar %s is stopped while %s runs", c.id, other.id)
		}
	}
}

// endsSandbox holds the end of a sandbox to the rules: nothing runs in it.
func (r *rules) endsSandbox(s *sandbox) {
	for _, c := range r.life.runtime.containers {
		if c.sandbox == s && c.running() && !c.stray {
			r.life.violate("grace", "%s is ended while %s runs in it", s.id, c.id)
		}
	}
}

// removes holds the removal of a container to the rules.
func (r *rules) removes(c *container) {
	if c.running() && !c.stray {
		r.life.violate("grace", "%s is removed while it runs", c.id)
	}
}

// takes holds what is taken away from a Pod to the rules: no container has it.
func (r *rules) takes(what string, uid types.UID) {
	if r.life.runs(uid) {
		r.life.violate("resources", "the %s of %s are taken away while it runs", what, uid)
	}
}

package simulation_test

import (
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// status holds a recorded status to the rules.
func (r *rules) status(uid types.UID, s *v1.PodStatus) {
	rec := r.pods[uid]
	old := rec.status
	switch {
	case rec.finished() && s.Phase != old.Phase:
		r.life.violate("phase", "a Pod that is %s becomes %s", old.Phase, s.Phase)
	case old.Phase == v1.PodRunning && s.Phase == v1.PodPending:
		r.life.violate("phase", "a Pod that is Running becomes Pending")
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			r.containerStatus(rec, &old, &list[i])
		}
	}
	if terminal(s.Phase) && !rec.finished() {
		r.outcome(rec, s)
	}
	rec.status = *s
}

func (r *rules) containerStatus(rec *record, old *v1.PodStatus, s *v1.ContainerStatus) {
	if was := statusOf(old, s.Name); was != nil && was.RestartCount > s.RestartCount {
		r.life.violate("restart count", "that of %s goes from %d to %d", s.Name, was.RestartCount, s.RestartCount)
	}
	for _, t := range []*v1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil {
			r.exit(rec, t)
		}
	}
	if s.State.Running != nil {
		rec.known[idOf(s.ContainerID)] = true
	}
}

// exit holds a reported exit to what happened.
func (r *rules) exit(rec *record, t *v1.ContainerStateTerminated) {
	c := r.byID(t.ContainerID)
	if c == nil {
		return
	}
	rec.known[c.id] = true
	switch {
	case c.running():
		r.life.violate("exit code", "%s is said to have ended, and runs", c.id)
	case t.ExitCode != c.code && !(c.removed && t.ExitCode == pod.LostExitCode):
		r.life.violate("exit code", "%s is said to have ended with %d, and ended with %d", c.id, t.ExitCode, c.code)
	}
}

func idOf(containerID string) string { return strings.TrimPrefix(containerID, runtimeName+"://") }

func (r *rules) byID(containerID string) *container {
	for _, c := range r.life.runtime.all {
		if c.id == idOf(containerID) {
			return c
		}
	}
	return nil
}

func statusOf(s *v1.PodStatus, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// outcome holds a Pod's terminal phase to its spec and to how its containers ended.
func (r *rules) outcome(rec *record, s *v1.PodStatus) {
	p := rec.pod
	if s.Reason != "" {
		r.failure(rec, s)
		return
	}
	want, left := v1.PodSucceeded, ""
	for i := range p.Spec.Containers {
		spec := &p.Spec.Containers[i]
		t := statusOf(s, spec.Name).State.Terminated
		if t == nil || t.ExitCode != 0 {
			want = v1.PodFailed
		}
		if c := r.byID(termID(t)); t == nil || c != nil && r.restartable(p, spec, c) && !c.lost {
			left = spec.Name
		}
	}
	if s.Phase != want {
		r.life.violate("phase", "the Pod is %s, and %s by its containers' exits", s.Phase, want)
	}
	if left != "" && !rec.ending() && !r.initFailed(p) {
		r.life.violate("phase", "the Pod is %s although %s shall run", s.Phase, left)
	}
}

func termID(t *v1.ContainerStateTerminated) string {
	if t == nil {
		return ""
	}
	return t.ContainerID
}

// initFailed reports whether an init container's failure ends the Pod.
func (r *rules) initFailed(p *v1.Pod) bool {
	if p.Spec.RestartPolicy != v1.RestartPolicyNever {
		return false
	}
	return slices.ContainsFunc(r.life.runtime.all, func(c *container) bool {
		return c.sandbox.uid == p.UID && r.life.isPlainInit(p.UID, c.name) && (c.exited() && c.code != 0 || c.lost)
	})
}

// failure holds a Pod that failed for a reason of its own to that reason.
func (r *rules) failure(rec *record, s *v1.PodStatus) {
	if s.Phase != v1.PodFailed {
		r.life.violate("phase", "the Pod is %s, with reason %s", s.Phase, s.Reason)
	}
	p, ok := rec.pod, false
	switch s.Reason {
	case "DeadlineExceeded":
		limit := p.Spec.ActiveDeadlineSeconds
		ok = limit != nil && time.Since(s.StartTime.Time) >= time.Duration(*limit)*time.Second
	case "UnexpectedAdmissionError":
		ok = r.life.rejected
	case "SandboxLost":
		ok = p.Spec.RestartPolicy == v1.RestartPolicyNever && (r.life.temper.meddles || r.life.temper.reboots)
	}
	if !ok {
		r.life.violate("phase", "the Pod failed for no good reason: %s", s.Reason)
	}
}

// settled looks at a Pod for which everything has worked for longer than the
// longest back-off: everything that shall run does, or has just ended.
func (r *rules) settled() {
	if p := r.life.store.pod; p != nil {
		rec := r.pods[p.UID]
		if rec.ending() {
			r.life.violate("converges", "the Pod's end was asked for %s ago", time.Since(rec.asked))
		} else if !rec.finished() {
			r.works(rec)
		}
	}
}

// works looks at the containers in the order in which they shall run.
func (r *rules) works(rec *record) {
	p := rec.pod
	s := r.life.runtime.newest(p.UID)
	if s == nil || !s.ready {
		r.life.violate("converges", "the Pod has no ready sandbox")
		return
	}
	for i := range p.Spec.InitContainers {
		spec := &p.Spec.InitContainers[i]
		if !isSidecar(spec) && s.done[spec.Name] || r.appCreated(s) && !isSidecar(spec) {
			continue
		}
		r.shallRun(spec, p.UID)
		if list := r.instances(p.UID, spec.Name); !isSidecar(spec) || !s.started[spec.Name] || !slices.ContainsFunc(list, (*container).running) {
			return // what follows waits
		}
	}
	ended := 0 // long enough ago
	for i := range p.Spec.Containers {
		spec := &p.Spec.Containers[i]
		list := r.instances(p.UID, spec.Name)
		list = slices.DeleteFunc(list, func(c *container) bool { return !c.ran() })
		if n := len(list); n > 0 && !list[n-1].running() && !r.restartable(p, spec, list[n-1]) {
			if time.Since(list[n-1].finished) > 20*time.Second {
				ended++
			}
			continue
		}
		r.shallRun(spec, p.UID)
	}
	if ended == len(p.Spec.Containers) {
		r.life.violate("converges", "all containers have ended, and the Pod is %s", rec.status.Phase)
	}
}

func (r *rules) appCreated(s *sandbox) bool {
	return slices.ContainsFunc(r.life.runtime.containers, func(c *container) bool {
		_, place := find(r.pods[s.uid].pod, c.name)
		return c.sandbox == s && place < 0
	})
}

// shallRun looks whether the container runs, or waits out a back-off.
func (r *rules) shallRun(spec *v1.Container, uid types.UID) {
	list := r.instances(uid, spec.Name)
	if len(list) == 0 {
		r.life.violate("converges", "%s was never created", spec.Name)
		return
	}
	if slices.ContainsFunc(list, (*container).running) {
		return
	}
	if last := list[len(list)-1]; time.Since(last.finished) > 5*time.Minute+20*time.Second && time.Since(last.created) > 20*time.Second {
		r.life.violate("converges", "%s does not run", spec.Name)
	}
}

// newest returns the sandbox in use.
func (r *runtime) newest(uid types.UID) *sandbox {
	var newest *sandbox
	for _, s := range r.sandboxes {
		if s.uid == uid && (newest == nil || s.ready || !newest.ready) {
			newest = s
		}
	}
	return newest
}

// removed holds the removal of a Pod's object to the rules: it comes last.
func (r *rules) removed(uid types.UID) {
	rec := r.pods[uid]
	for _, s := range r.life.runtime.sandboxes {
		if s.uid == uid && !s.stray {
			r.life.violate("nothing left", "the Pod's object is removed while there is %s", s.id)
		}
	}
	for _, what := range r.life.host.of(uid) {
		r.life.violate("nothing left", "the Pod's object is removed while there are %s", what)
	}
	if !rec.ending() {
		r.life.violate("finished", "the Pod's object is removed, and nobody asked for that")
	}
	if !rec.gone && !rec.finished() {
		r.life.violate("phase", "the Pod's object is removed, and its phase is %s", rec.status.Phase)
	}
	if late := time.Since(rec.until); r.life.temper.name == "calm" && late > r.allowance(rec) {
		r.life.violate("grace", "the Pod is gone %s after its grace", late)
	}
	rec.gone = true
}

// allowance is how long after its grace a Pod may be gone when nothing fails: two
// seconds for its apps and for each sidecar, and what the calls take.
func (r *rules) allowance(rec *record) time.Duration {
	return time.Duration(1+len(rec.pod.Spec.InitContainers))*2*time.Second + 20*time.Second
}

// left looks for what is left when all Pods are gone.
func (r *rules) left() {
	if p := r.life.store.pod; p != nil {
		r.life.violate("converges", "%s is still there", p.UID)
	}
	for _, s := range r.life.runtime.sandboxes {
		r.life.violate("nothing left", "%s of %s", s.id, s.uid)
	}
	for _, c := range r.life.runtime.containers {
		r.life.violate("nothing left", "%s", c)
	}
	for uid := range r.pods {
		for _, what := range r.life.host.of(uid) {
			r.life.violate("nothing left", "%s", what)
		}
	}
}

// of returns what the Pod has on the host.
func (h *host) of(uid types.UID) (list []string) {
	for _, what := range []string{"room", "volumes", "devices", "cgroup", "files"} {
		if h.has[what+" of "+string(uid)] {
			list = append(list, what)
		}
	}
	return list
}

// onDisk reports whether a process that starts finds something of the Pod on the
// host's disk.
func (l *life) onDisk(uid types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.host.of(uid)) > 0
}

// uids returns all Pods that ever were.
func (l *life) uids() []types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []types.UID
	for uid := range l.rules.pods {
		list = append(list, uid)
	}
	slices.Sort(list)
	return list
}

package pod

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// minGrace is the minimum time between stop signal and kill, even if the hooks have
// used up the grace period.
const minGrace = 2 * time.Second

// Why containers are killed.
const (
	KillUnhealthy = "Unhealthy"
	KillChanged   = "Changed"
	KillSandbox   = "SandboxChanged"
	KillEnding    = "Ending"
	KillFinished  = "Finished"
	KillUnknown   = "Unknown"
	KillResized   = "Resized"
)

// Kill stops one container instance.
type Kill struct {
	ID, Name        string
	Reason, Message string
	// Grace is the grace period, including the time of the preStop hook.
	Grace time.Duration
}

// Start creates and starts one container instance.
type Start struct {
	Name    string
	Attempt uint32
	Delay   time.Duration // to record with the instance (AnnotationDelay)
}

// NewSandbox creates a sandbox.
type NewSandbox struct{ Attempt uint32 }

// Plan is what to do next with a Pod, in the order of its fields. After any action the
// Pod is observed again and a new plan is made, so a plan never has to predict the
// effect of its own actions.
type Plan struct {
	Kill          []Kill   // all at the same time
	Update        []Update // of instances that keep running
	StopSandbox   []string // ids
	Remove        []string // ids of ended or never started instances
	RemoveSandbox []string // ids of sandboxes that are no longer needed
	Sandbox       *NewSandbox
	Start         []Start // one after the other
	// Failed, if not nil, makes the Pod fail for good.
	Failed *RejectError
	// Ended is set for a terminating Pod of which nothing runs any more.
	Ended bool
	// Again is when a decision may change without an event; zero means never.
	Again time.Time
}

// Empty reports whether there is nothing to do now.
func (p *Plan) Empty() bool {
	return len(p.Kill) == 0 && len(p.Update) == 0 && len(p.StopSandbox) == 0 && len(p.Remove) == 0 && len(p.RemoveSandbox) == 0 &&
		p.Sandbox == nil && len(p.Start) == 0 && p.Failed == nil
}

// String describes the plan, for logs. Two plans that do the same have the same
// description.
func (p *Plan) String() string {
	var parts []string
	add := func(what string, id any) { parts = append(parts, fmt.Sprintf("%s %v", what, id)) }
	for _, k := range p.Kill {
		add("stop container", k.ID)
	}
	for _, u := range p.Update {
		add("resize container", u)
	}
	for _, id := range p.StopSandbox {
		add("stop sandbox", id)
	}
	for _, id := range p.Remove {
		add("remove container", id)
	}
	for _, id := range p.RemoveSandbox {
		add("remove sandbox", id)
	}
	if p.Sandbox != nil {
		add("run sandbox", p.Sandbox.Attempt)
	}
	for _, s := range p.Start {
		add("start "+s.Name, s.Attempt)
	}
	return strings.Join(parts, ", ")
}

// Decide returns what to do next. It is a pure function: the same view gives the same
// plan, and a view in which the plan has been carried out gives an empty one.
func Decide(v *View) Plan {
	switch {
	case v.Ending != nil:
		return end(v)
	case v.Finished() || v.Failed != nil:
		return finish(v)
	case v.Admitting:
		return Plan{}
	}
	var p Plan
	late := deadline(v)
	if !late.IsZero() && !v.Now.Before(late) {
		p.Failed = &RejectError{
			Reason:  "DeadlineExceeded",
			Message: fmt.Sprintf("the Pod was active longer than its activeDeadlineSeconds of %d", *v.Pod.Spec.ActiveDeadlineSeconds),
		}
		return p
	}
	p.again(late)
	sandbox := v.Seen.Sandbox()
	if sandbox == nil || !sandbox.Ready {
		renew(v, sandbox, &p)
		return p
	}
	run(v, sandbox, &p)
	return p
}

func (p *Plan) again(at time.Time) {
	if !at.IsZero() && (p.Again.IsZero() || at.Before(p.Again)) {
		p.Again = at
	}
}

// deadline returns when activeDeadlineSeconds is over, or zero.
func deadline(v *View) time.Time {
	if v.Pod.Spec.ActiveDeadlineSeconds == nil || v.Was.StartTime == nil {
		return time.Time{}
	}
	return v.Was.StartTime.Add(time.Duration(*v.Pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

// renew replaces a sandbox that is missing or not ready.
func renew(v *View, old *Sandbox, p *Plan) {
	if active := v.Seen.Active(); len(active) > 0 {
		for _, c := range active {
			p.Kill = append(p.Kill, Kill{ID: c.ID, Name: c.Name, Reason: KillSandbox, Message: "the Pod's sandbox ended", Grace: minGrace})
		}
		return
	}
	created := v.anyApp()
	if created && v.Pod.Spec.RestartPolicy == v1.RestartPolicyNever {
		if !v.ended() {
			p.Failed = &RejectError{
				Reason:  "SandboxLost",
				Message: "the Pod's sandbox ended before its containers did, and restartPolicy Never forbids another",
			}
		}
		return
	}
	if created && v.ended() {
		return
	}
	if initFailed(v, old) {
		return
	}
	next := NewSandbox{}
	if old != nil {
		next.Attempt = old.Attempt + 1
	}
	for _, s := range v.Seen.Sandboxes { // one behind the dead one is still ready when that came late
		if s.Ready || s.ID == old.ID {
			p.StopSandbox = append(p.StopSandbox, s.ID)
		}
	}
	p.Sandbox = &next
}

// ended reports whether every app container has ended and none restarts.
func (v *View) ended() bool {
	for i := range v.Pod.Spec.Containers {
		c := &v.Pod.Spec.Containers[i]
		latest := v.Seen.Latest(c.Name)
		if latest == nil || latest.State != Exited || v.Restarts(c, latest) {
			return false
		}
	}
	return true
}

// initFailed reports whether an init container failed for good.
func initFailed(v *View, sandbox *Sandbox) bool {
	if sandbox == nil || v.appCreated(sandbox.ID) {
		return false
	}
	for i := range v.Pod.Spec.InitContainers {
		c := &v.Pod.Spec.InitContainers[i]
		latest := v.Seen.Latest(c.Name)
		if latest != nil && latest.SandboxID == sandbox.ID && latest.State == Exited && latest.ExitCode != 0 && !Restarts(v.Pod, c, latest.ExitCode) {
			return true
		}
	}
	return false
}

// run brings the containers of a ready sandbox forward.
func run(v *View, sandbox *Sandbox, p *Plan) {
	if initFailed(v, sandbox) || v.ended() {
		return // the phase becomes terminal, and then the Pod is finished
	}
	p.Kill = unwanted(v, sandbox)
	prune(v, sandbox, p)
	killed := make(map[string]bool, len(p.Kill))
	for _, k := range p.Kill {
		killed[k.Name] = true
	}
	resize(v, p, killed)
	debug(v, sandbox, p)
	if !initialize(v, sandbox, p, killed) {
		return
	}
	for i := range v.Pod.Spec.Containers {
		if c := &v.Pod.Spec.Containers[i]; !killed[c.Name] {
			start(v, sandbox, c, p)
		}
	}
}

// debug starts ephemeral containers, each once in the Pod's life. They do not wait for
// other containers, so that a Pod that hangs in its init containers can be debugged.
func debug(v *View, sandbox *Sandbox, p *Plan) {
	for i := range v.Pod.Spec.EphemeralContainers {
		start(v, sandbox, Common(&v.Pod.Spec.EphemeralContainers[i]), p)
	}
}

// initialize starts init containers one at a time, keeps sidecars running, and
// reports whether app containers may start.
func initialize(v *View, sandbox *Sandbox, p *Plan, killed map[string]bool) bool {
	created := v.appCreated(sandbox.ID)
	for i := range v.Pod.Spec.InitContainers {
		c := &v.Pod.Spec.InitContainers[i]
		latest := v.Seen.Latest(c.Name)
		here := latest != nil && latest.SandboxID == sandbox.ID
		switch {
		case killed[c.Name]:
			if !created {
				return false
			}
		case IsSidecar(c):
			if !here || latest.State != Running {
				start(v, sandbox, c, p)
			}
			started := here && latest.State == Running && (c.StartupProbe == nil || v.Probed(latest).Startup == Success)
			if !started && !created {
				return false
			}
		case created || here && latest.State == Exited && latest.ExitCode == 0:
		default:
			start(v, sandbox, c, p)
			return false
		}
	}
	return true
}

// start adds the start of the container if it is not running and its start is due.
func start(v *View, sandbox *Sandbox, c *v1.Container, p *Plan) {
	latest := v.Seen.Latest(c.Name)
	next := Start{Name: c.Name}
	switch {
	case latest == nil:
	case latest.State == Created: // an interrupted start: it never ran
		p.Remove = append(p.Remove, latest.ID)
		next.Attempt, next.Delay = latest.Attempt, latest.Delay
	case latest.State != Exited:
		return
	case latest.SandboxID != sandbox.ID && IsInit(v.Pod, c.Name):
		next.Attempt = latest.Attempt + 1
	case !v.Restarts(c, latest):
		return
	case latest.SandboxID != sandbox.ID || latest.Hash != Hash(c) || latest.Resources != nil && len(differing(latest.Resources, &c.Resources)) > 0:
		next.Attempt = latest.Attempt + 1
	default:
		if at := RestartAt(latest); v.Now.Before(at) {
			p.again(at)
			return
		}
		next.Attempt, next.Delay = latest.Attempt+1, nextDelay(latest)
	}
	if b, ok := v.Blocks[c.Name]; ok && v.Now.Before(b.Until) {
		p.again(b.Until)
		return
	}
	p.Start = append(p.Start, next)
}

// unwanted returns the kills of containers that the spec no longer contains or has
// changed, whose probes failed, that the runtime has lost track of, or that are in a
// former sandbox of the Pod.
func unwanted(v *View, sandbox *Sandbox) []Kill {
	var kills []Kill
	for _, seen := range v.Seen.Active() {
		c := Find(v.Pod, seen.Name)
		k := Kill{ID: seen.ID, Name: seen.Name, Grace: grace(v.Pod)}
		probed := v.Probed(&seen)
		switch {
		case seen.SandboxID != sandbox.ID:
			k.Reason, k.Message, k.Grace = KillSandbox, "the Pod has another sandbox", minGrace
		case c == nil:
			k.Reason, k.Message = KillChanged, "the container is not in the spec any more"
		case isApp(v.Pod, c.Name) && seen.Hash != Hash(c):
			k.Reason, k.Message = KillChanged, "the container's spec changed"
		case resizeRestarts(v.Pod, &seen, c):
			k.Reason, k.Message = KillResized, "its resources change, and its resizePolicy asks for a restart"
		case seen.State == Unknown:
			k.Reason, k.Message = KillUnknown, "the runtime does not know the container's state: it is ended, so that its restart policy can decide"
		case probed.Startup == Failure:
			k.Reason, k.Message = KillUnhealthy, "startup probe failed: "+probed.Message
			k.Grace = probeGrace(c.StartupProbe, k.Grace)
		case probed.Liveness == Failure:
			k.Reason, k.Message = KillUnhealthy, "liveness probe failed: "+probed.Message
			k.Grace = probeGrace(c.LivenessProbe, k.Grace)
		default:
			continue
		}
		kills = append(kills, k)
	}
	return kills
}

func grace(p *v1.Pod) time.Duration {
	if p.Spec.TerminationGracePeriodSeconds == nil {
		return 30 * time.Second
	}
	return time.Duration(*p.Spec.TerminationGracePeriodSeconds) * time.Second
}

func probeGrace(p *v1.Probe, otherwise time.Duration) time.Duration {
	if p == nil || p.TerminationGracePeriodSeconds == nil {
		return otherwise
	}
	return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
}

// prune removes instances that are older than the previous one or were created beside
// another of the container, and sandboxes that are not in use. A sandbox with instances
// that are kept is only stopped.
func prune(v *View, current *Sandbox, p *Plan) {
	kept := map[string]bool{current.ID: true}
	count, ran := map[string]int{}, map[string]int{}
	for _, c := range v.Seen.Containers {
		count[c.Name]++
		ran[c.Name] += c.ran() // an instance that was only created supersedes nothing
		if ran[c.Name] > 2 && c.State == Exited || count[c.Name] > 1 && c.State == Created {
			p.Remove = append(p.Remove, c.ID)
			continue
		}
		kept[c.SandboxID] = true
	}
	for _, s := range v.Seen.Sandboxes {
		switch {
		case !kept[s.ID]:
			p.RemoveSandbox = append(p.RemoveSandbox, s.ID)
		case s.Ready && s.ID != current.ID && len(p.Kill) == 0:
			p.StopSandbox = append(p.StopSandbox, s.ID)
		}
	}
}

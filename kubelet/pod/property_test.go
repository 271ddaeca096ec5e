package pod_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// views is how many random views each property is tried on.
const views = 10000

// randomView returns a view in which everything may be, also what a kubelet alone
// would not bring about: two sandboxes that are ready, instances of one name side by
// side, containers that the spec does not have.
func randomView(seed uint64) *pod.View {
	r := rand.New(rand.NewPCG(seed, 1))
	chance := func(p float64) bool { return r.Float64() < p }
	var changes []func(*v1.PodSpec)
	for i := range r.IntN(4) {
		if name := fmt.Sprintf("i%d", i); chance(0.4) {
			changes = append(changes, sidecar(name, chance(0.3)))
		} else {
			changes = append(changes, inits(name))
		}
	}
	policies := []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}
	p := spec(policies[r.IntN(3)], changes...)
	if chance(0.2) {
		limit := int64(r.IntN(600))
		p.Spec.ActiveDeadlineSeconds = &limit
	}
	v := view(p, nil)
	for n := range r.IntN(3) {
		s := sandbox(uint32(n), chance(0.6))
		s.CreatedAt = noon().Add(-time.Duration(r.IntN(1000)) * time.Second)
		v.Seen.Sandboxes = append(v.Seen.Sandboxes, s)
	}
	v.Probes, v.Blocks = map[string]pod.Probed{}, map[string]pod.Block{}
	for _, name := range []string{"i0", "i1", "i2", "a", "b", "stranger"} {
		randomInstances(r, v, name)
	}
	v.Seen.Sort()
	v.Was.StartTime = nil
	switch r.IntN(8) {
	case 0:
		v.Ending = &pod.Ending{Deadline: noon().Add(time.Duration(r.IntN(90)-30) * time.Second), Force: chance(0.2)}
	case 1:
		v.Was.Phase = []v1.PodPhase{v1.PodSucceeded, v1.PodFailed}[r.IntN(2)]
	case 2:
		v.Failed = &pod.RejectError{Reason: "Never"}
	case 3:
		v.Was.Phase = v1.PodRunning
	}
	return v
}

func randomInstances(r *rand.Rand, v *pod.View, name string) {
	if len(v.Seen.Sandboxes) == 0 {
		return
	}
	for n := range r.IntN(3) {
		c := instance(name, uint32(n), pod.State(r.IntN(4)), int32(r.IntN(2)))
		c.SandboxID = v.Seen.Sandboxes[r.IntN(len(v.Seen.Sandboxes))].ID
		c.Delay = []time.Duration{0, 0, 10 * time.Second, 300 * time.Second}[r.IntN(4)]
		if ago := []time.Duration{0, 15 * time.Second, 10 * time.Minute}[r.IntN(3)]; c.State == pod.Exited {
			c.StartedAt, c.FinishedAt = c.StartedAt.Add(-ago), c.FinishedAt.Add(-ago)
		}
		if r.IntN(8) == 0 {
			c.Hash = "other"
		}
		if r.IntN(2) == 0 {
			v.Probes[c.ID] = pod.Probed{Startup: pod.Outcome(r.IntN(3)), Liveness: pod.Outcome(r.IntN(3))}
		}
		v.Seen.Containers = append(v.Seen.Containers, c)
	}
	if r.IntN(10) == 0 {
		v.Blocks[name] = pod.Block{Until: noon().Add(time.Duration(r.IntN(20)-10) * time.Second)}
	}
}

// held is a property of one plan. It returns what is wrong, or nothing.
type held func(v *pod.View, p *pod.Plan) string

func TestProperties(t *testing.T) {
	properties := map[string]held{
		"a plan is a function of its view":         pure,
		"never two instances of one container":     oneInstance,
		"nothing starts in an ended Pod":           noStartAtTheEnd,
		"what runs is not taken away":              takesNothingThatRuns,
		"init containers run in order":             initOrder,
		"the restart policy is obeyed":             restartPolicy,
		"a back-off is not shortened":              backOff,
		"a grace only shrinks":                     graceShrinks,
		"sidecars stop last, and the latest first": sidecarsLast,
		"what is waited for comes":                 againLater,
	}
	for seed := range uint64(views) {
		v := randomView(seed)
		p := pod.Decide(v)
		for name, property := range properties {
			if wrong := property(v, &p); wrong != "" {
				t.Fatalf("view %d: %s: %s\nthe plan is to %s\nof %+v\nof a Pod with %+v", seed, name, wrong, p.String(), v.Seen, v.Pod.Spec)
			}
		}
	}
}

func pure(v *pod.View, p *pod.Plan) string {
	before := *v.Seen
	before.Containers = append([]pod.Container(nil), v.Seen.Containers...)
	again := pod.Decide(v)
	return cmp.Diff(*p, again) + cmp.Diff(before.Containers, append([]pod.Container(nil), v.Seen.Containers...))
}

func active(v *pod.View, name string) bool {
	for _, c := range v.Seen.Active() {
		if c.Name == name {
			return true
		}
	}
	return false
}

func oneInstance(v *pod.View, p *pod.Plan) string {
	started := map[string]bool{}
	for _, s := range p.Start {
		if active(v, s.Name) || started[s.Name] {
			return s.Name + " is started beside another"
		}
		started[s.Name] = true
	}
	if s := v.Seen.Sandbox(); p.Sandbox != nil && (s != nil && s.Ready || len(v.Seen.Active()) > 0) {
		return "a sandbox is made beside another"
	}
	return ""
}

func noStartAtTheEnd(v *pod.View, p *pod.Plan) string {
	if over := v.Ending != nil || v.Finished() || v.Failed != nil; over && (len(p.Start) > 0 || p.Sandbox != nil) {
		return "something is started"
	}
	if p.Ended && len(v.Seen.Active()) > 0 {
		return "it counts as ended while containers run"
	}
	return ""
}

func takesNothingThatRuns(v *pod.View, p *pod.Plan) string {
	for _, c := range v.Seen.Active() {
		for _, id := range p.Remove {
			if id == c.ID {
				return c.ID + " runs and is removed"
			}
		}
		for _, id := range append(p.StopSandbox, p.RemoveSandbox...) {
			if id == c.SandboxID {
				return c.ID + " runs and its sandbox is ended"
			}
		}
	}
	return ""
}

func initOrder(v *pod.View, p *pod.Plan) string {
	s := v.Seen.Sandbox()
	begun := map[string]bool{} // in the sandbox
	for _, c := range v.Seen.Containers {
		begun[c.Name] = begun[c.Name] || s != nil && c.SandboxID == s.ID
	}
	for _, start := range p.Start {
		for i := range v.Pod.Spec.InitContainers {
			init := &v.Pod.Spec.InitContainers[i]
			if init.Name == start.Name {
				if !pod.IsSidecar(init) && (begun["a"] || begun["b"]) {
					return init.Name + " is started after an app container"
				}
				break
			}
			latest := v.Seen.Latest(init.Name)
			done := latest != nil && latest.SandboxID == s.ID && latest.State == pod.Exited && latest.ExitCode == 0
			if pod.IsSidecar(init) {
				done = latest != nil && latest.SandboxID == s.ID && latest.State == pod.Running
			}
			if !done && !begun["a"] && !begun["b"] {
				return start.Name + " is started before " + init.Name + " has done its part"
			}
		}
	}
	return ""
}

func restartPolicy(v *pod.View, p *pod.Plan) string {
	for _, s := range p.Start {
		latest, c := v.Seen.Latest(s.Name), pod.Find(v.Pod, s.Name)
		if c == nil {
			return s.Name + " is not in the spec"
		}
		renewed := latest != nil && latest.SandboxID != v.Seen.Sandbox().ID && (s.Name[0] == 'i')
		replaced := latest != nil && latest.Hash != pod.Hash(c) && s.Name[0] != 'i' // while it ran
		if latest != nil && latest.State == pod.Exited && !renewed && !replaced && !pod.Restarts(v.Pod, c, latest.ExitCode) {
			return s.Name + " is started again"
		}
	}
	return ""
}

func backOff(v *pod.View, p *pod.Plan) string {
	for _, s := range p.Start {
		latest := v.Seen.Latest(s.Name)
		if latest == nil || latest.State != pod.Exited || latest.SandboxID != v.Seen.Sandbox().ID || latest.Hash != pod.Hash(pod.Find(v.Pod, s.Name)) {
			continue
		}
		if at := pod.RestartAt(latest); v.Now.Before(at) {
			return s.Name + " is started before " + at.String()
		}
		if s.Delay < latest.Delay || s.Delay < 10*time.Second || s.Delay > 5*time.Minute || s.Attempt != latest.Attempt+1 {
			return fmt.Sprintf("%s is started with %+v after %+v", s.Name, s, latest)
		}
	}
	return ""
}

// graceShrinks compares with the plans of a moment later, and of an end that was
// asked for with less grace.
func graceShrinks(v *pod.View, p *pod.Plan) string {
	if v.Ending == nil {
		return ""
	}
	later, sooner := *v, *v
	later.Now = v.Now.Add(time.Second)
	sooner.Ending = &pod.Ending{Deadline: v.Ending.Deadline.Add(-time.Second), Force: v.Ending.Force}
	for _, other := range []pod.Plan{pod.Decide(&later), pod.Decide(&sooner)} {
		for i, k := range other.Kill {
			if k.ID != p.Kill[i].ID || k.Grace > p.Kill[i].Grace {
				return fmt.Sprintf("%+v becomes %+v", p.Kill[i], k)
			}
		}
	}
	for _, k := range p.Kill {
		if k.Grace > max(v.Ending.Deadline.Sub(v.Now), 2*time.Second) {
			return fmt.Sprintf("%+v is longer than the Pod's", k)
		}
	}
	return ""
}

func sidecarsLast(v *pod.View, p *pod.Plan) string {
	if v.Ending == nil && !v.Finished() {
		return ""
	}
	place := map[string]int{}
	for i := range v.Pod.Spec.InitContainers {
		if c := &v.Pod.Spec.InitContainers[i]; pod.IsSidecar(c) {
			place[c.Name] = 1 + i
		}
	}
	for _, k := range p.Kill {
		for _, c := range v.Seen.Active() {
			if place[k.Name] > 0 && (place[c.Name] == 0 || place[c.Name] > place[k.Name]) {
				return k.Name + " is stopped while " + c.Name + " runs"
			}
		}
	}
	return ""
}

func againLater(v *pod.View, p *pod.Plan) string {
	if !p.Again.IsZero() && !p.Again.After(v.Now) {
		return "to look again at " + p.Again.String() + ", which is over"
	}
	return ""
}

// TestPlansConverge carries plans out, in a world where nothing else happens: after
// a few there is nothing left to do, and no plan is made twice in a row.
func TestPlansConverge(t *testing.T) {
	for seed := range uint64(views) {
		v, last := randomView(seed), ""
		for range 40 {
			p := pod.Decide(v)
			if v.Failed == nil {
				v.Failed = p.Failed
			}
			if p.Empty() && p.Failed == nil {
				if phase := pod.Phase(v); phase != v.Was.Phase {
					v.Was.Phase = phase
					last = ""
					continue
				}
				last = "done"
				break
			}
			if now := p.String(); now != "" && now == last {
				t.Fatalf("view %d: the plan to %s is made again when it is carried out", seed, now)
			} else {
				last = now
			}
			carryOut(v, &p)
		}
		if last != "done" {
			t.Fatalf("view %d: there is no end to its plans, the last is to %s", seed, last)
		}
	}
}

// carryOut does to the observation what the plan says.
func carryOut(v *pod.View, p *pod.Plan) {
	next := &pod.Observation{}
	in := func(id string, list ...string) bool {
		for _, x := range list {
			if x == id {
				return true
			}
		}
		return false
	}
	for _, s := range v.Seen.Sandboxes {
		s.Ready = s.Ready && !in(s.ID, p.StopSandbox...)
		if !in(s.ID, p.RemoveSandbox...) {
			next.Sandboxes = append(next.Sandboxes, s)
		}
	}
	for _, c := range v.Seen.Containers {
		for _, k := range p.Kill {
			if k.ID == c.ID {
				c.State, c.ExitCode, c.FinishedAt = pod.Exited, 137, v.Now
			}
		}
		if !in(c.ID, p.Remove...) && !in(c.SandboxID, p.RemoveSandbox...) {
			next.Containers = append(next.Containers, c)
		}
	}
	if p.Sandbox != nil {
		next.Sandboxes = append(next.Sandboxes, pod.Sandbox{ID: fmt.Sprintf("new%d", p.Sandbox.Attempt), Attempt: p.Sandbox.Attempt, Ready: true, CreatedAt: v.Now})
	}
	for _, s := range p.Start {
		c := instance(s.Name, s.Attempt, pod.Running, 0)
		c.ID, c.SandboxID, c.Delay = "new "+c.ID, v.Seen.Sandbox().ID, s.Delay
		v.Probes[c.ID] = pod.Probed{Startup: pod.Success}
		next.Containers = append(next.Containers, c)
	}
	next.Sort()
	v.Seen = next
}

package pod_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// The scene of every case: a Pod "web" at noon.
func noon() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

func spec(policy v1.RestartPolicy, change ...func(*v1.PodSpec)) *v1.Pod {
	grace := int64(30)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"}, Spec: v1.PodSpec{
		RestartPolicy: policy, TerminationGracePeriodSeconds: &grace, Containers: []v1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}},
	}}
	for _, c := range change {
		c(&p.Spec)
	}
	return p
}

func inits(names ...string) func(*v1.PodSpec) {
	return func(s *v1.PodSpec) {
		for _, n := range names {
			s.InitContainers = append(s.InitContainers, v1.Container{Name: n, Image: "i"})
		}
	}
}

func sidecar(name string, startup bool) func(*v1.PodSpec) {
	always := v1.ContainerRestartPolicyAlways
	return func(s *v1.PodSpec) {
		c := v1.Container{Name: name, Image: "i", RestartPolicy: &always}
		if startup {
			c.StartupProbe = &v1.Probe{}
		}
		s.InitContainers = append(s.InitContainers, c)
	}
}

func sandbox(attempt uint32, ready bool) pod.Sandbox {
	return pod.Sandbox{ID: string(rune('S' + attempt)), Attempt: attempt, Ready: ready, CreatedAt: noon()}
}

// instance is a container in the first sandbox "S".
func instance(name string, attempt uint32, state pod.State, code int32) pod.Container {
	c := pod.Container{
		ID: name + string(rune('0'+attempt)), Name: name, SandboxID: "S", Attempt: attempt, State: state, ExitCode: code,
		Hash: pod.Hash(&v1.Container{Name: name, Image: "i"}), CreatedAt: noon(), StartedAt: noon().Add(-time.Minute),
	}
	if state == pod.Exited {
		c.FinishedAt = noon().Add(-time.Second)
	}
	return c
}

func running(name string) pod.Container         { return instance(name, 0, pod.Running, 0) }
func exited(name string, n int32) pod.Container { return instance(name, 0, pod.Exited, n) }

// late is an instance that was created after the last, by a call whose caller is gone.
func late(name string, attempt uint32) pod.Container {
	c := instance(name, attempt, pod.Created, 0)
	c.ID, c.CreatedAt, c.StartedAt = "late "+name, noon().Add(time.Second), time.Time{}
	return c
}

// elsewhere moves a container into the second sandbox, "T".
func elsewhere(c pod.Container) pod.Container {
	c.SandboxID = "T"
	return c
}

func view(p *v1.Pod, sandboxes []pod.Sandbox, containers ...pod.Container) *pod.View {
	v := &pod.View{Pod: p, Was: &v1.PodStatus{}, Seen: &pod.Observation{Sandboxes: sandboxes, Containers: containers}, Now: noon()}
	v.Seen.Sort()
	return v
}

func with(v *pod.View, change func(*pod.View)) *pod.View {
	change(v)
	return v
}

// recorded has the status say of container "a" what it does.
func recorded(id string, state v1.ContainerState) func(*pod.View) {
	return func(v *pod.View) {
		v.Was.ContainerStatuses = []v1.ContainerStatus{{Name: "a", ContainerID: id, State: state}}
	}
}

func TestDecide(t *testing.T) {
	up := []pod.Sandbox{sandbox(0, true)}
	down := []pod.Sandbox{sandbox(0, false)}
	backed := instance("a", 1, pod.Exited, 1)
	backed.Delay = 10 * time.Second
	long := instance("a", 4, pod.Exited, 1)
	long.Delay, long.StartedAt = 80*time.Second, noon().Add(-11*time.Minute)
	changed := running("a")
	changed.Hash = "other"
	replaced := exited("a", 0)
	replaced.Hash = "other"
	forgotten := exited("a", 0)
	forgotten.Hash = ""
	grace := 30 * time.Second
	cases := map[string]struct {
		view *pod.View
		want pod.Plan
	}{
		"a new Pod gets a sandbox": {view(spec("Always"), nil), pod.Plan{Sandbox: &pod.NewSandbox{}}},
		"then all its containers":  {view(spec("Always"), up), pod.Plan{Start: []pod.Start{{Name: "a"}, {Name: "b"}}}},
		"what runs is left alone":  {view(spec("Always"), up, running("a"), running("b")), pod.Plan{}},
		"init containers come one at a time": {
			view(spec("Always", inits("x", "y")), up),
			pod.Plan{Start: []pod.Start{{Name: "x"}}},
		},
		"a running init container is waited for": {view(spec("Always", inits("x", "y")), up, running("x")), pod.Plan{}},
		"the next init container after success": {
			view(spec("Always", inits("x", "y")), up, exited("x", 0)),
			pod.Plan{Start: []pod.Start{{Name: "y"}}},
		},
		"a failed init container is tried again": {
			view(spec("Always", inits("x")), up, exited("x", 1)),
			pod.Plan{Start: []pod.Start{{Name: "x", Attempt: 1, Delay: 10 * time.Second}}},
		},
		"but not with Never": {view(spec("Never", inits("x")), up, exited("x", 1)), pod.Plan{}},
		"init containers never run again beside an app container": {view(spec("Always", inits("x")), up, running("a"), running("b")), pod.Plan{}},
		"a sidecar is started and waited for":                     {view(spec("Always", sidecar("s", true)), up, running("s")), pod.Plan{}},
		"a started sidecar lets the others start": {with(view(spec("Always", sidecar("s", true)), up, running("s")), func(v *pod.View) {
			v.Probes = map[string]pod.Probed{"s0": {Startup: pod.Success}}
		}), pod.Plan{Start: []pod.Start{{Name: "a"}, {Name: "b"}}}},
		"a sidecar is started again while apps run": {
			view(spec("Never", sidecar("s", false)), up, exited("s", 0), running("a"), running("b")),
			pod.Plan{Start: []pod.Start{{Name: "s", Attempt: 1, Delay: 10 * time.Second}}},
		},
		"but not when they are done": {view(spec("Never", sidecar("s", false)), up, exited("s", 0), exited("a", 0), exited("b", 0)), pod.Plan{}},
		"Always restarts after success": {
			view(spec("Always"), up, exited("a", 0), running("b")),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1, Delay: 10 * time.Second}}},
		},
		"OnFailure does not": {view(spec("OnFailure"), up, exited("a", 0), running("b")), pod.Plan{}},
		"OnFailure restarts after failure": {
			view(spec("OnFailure"), up, exited("a", 2), running("b")),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1, Delay: 10 * time.Second}}},
		},
		"Never restarts nothing":   {view(spec("Never"), up, exited("a", 2), running("b")), pod.Plan{}},
		"the second restart waits": {view(spec("Always"), up, backed, running("b")), pod.Plan{Again: noon().Add(9 * time.Second)}},
		"and doubles the delay": {
			with(view(spec("Always"), up, backed, running("b")), func(v *pod.View) { v.Now = noon().Add(9 * time.Second) }),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 2, Delay: 20 * time.Second}}},
		},
		"a long life resets the delay": {
			view(spec("Always"), up, long, running("b")),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 5, Delay: 10 * time.Second}}},
		},
		"an interrupted start is undone and repeated": {
			view(spec("Always"), up, instance("a", 0, pod.Created, 0), running("b")),
			pod.Plan{Remove: []string{"a0"}, Start: []pod.Start{{Name: "a"}}},
		},
		"a blocked start waits": {with(view(spec("Always"), up, running("b")), func(v *pod.View) {
			v.Blocks = map[string]pod.Block{"a": {Until: noon().Add(time.Second)}}
		}), pod.Plan{Again: noon().Add(time.Second)}},
		"a changed container is killed": {
			view(spec("Always"), up, changed, running("b")),
			pod.Plan{Kill: []pod.Kill{{ID: "a0", Name: "a", Reason: pod.KillChanged, Message: "the container's spec changed", Grace: grace}}},
		},
		"and followed by another, whatever the policy": {
			with(view(spec("Never"), up, replaced, running("b")), recorded("rt://a0", v1.ContainerState{Running: &v1.ContainerStateRunning{}})),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1}}},
		},
		"also if nobody saw it run, or the node was killed meanwhile": {
			with(view(spec("OnFailure"), up, replaced, exited("b", 0)), recorded("rt://a0", v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}})),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1}}},
		},
		"that another follows is kept when the runtime forgot the first": {
			with(view(spec("Never"), up, forgotten, running("b")), func(v *pod.View) {
				recorded("rt://a0", v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}})(v)
				v.Was.ContainerStatuses[0].LastTerminationState.Terminated = &v1.ContainerStateTerminated{ContainerID: "rt://a0"}
			}),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1}}},
		},
		"but not if it changed after its end": {
			with(view(spec("Never"), up, replaced, running("b")), recorded("rt://a0", v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}})),
			pod.Plan{},
		},
		"what the record says of an earlier instance does not count": {
			with(view(spec("Never"), up, replaced, running("b")), recorded("rt://a", v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}})),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1}}},
		},
		"a changed container of an ending Pod does not": {
			with(view(spec("Always"), up, replaced), func(v *pod.View) { v.Ending = &pod.Ending{Deadline: noon()} }),
			pod.Plan{Ended: true},
		},
		"an unhealthy one as well": {with(view(spec("Always"), up, running("a"), running("b")), func(v *pod.View) {
			v.Probes = map[string]pod.Probed{"b0": {Startup: pod.Success, Liveness: pod.Failure, Message: "no answer"}}
		}), pod.Plan{Kill: []pod.Kill{{ID: "b0", Name: "b", Reason: pod.KillUnhealthy, Message: "liveness probe failed: no answer", Grace: grace}}}},
		"a container of which the runtime lost track is ended": {
			view(spec("Always"), up, running("a"), instance("b", 0, pod.Unknown, 0)),
			pod.Plan{Kill: []pod.Kill{{
				ID: "b0", Name: "b", Reason: pod.KillUnknown, Grace: grace,
				Message: "the runtime does not know the container's state: it is ended, so that its restart policy can decide",
			}}},
		},
		"readiness kills nothing": {with(view(spec("Always"), up, running("a"), running("b")), func(v *pod.View) {
			v.Probes = map[string]pod.Probed{"b0": {Readiness: pod.Failure}}
		}), pod.Plan{}},
		"old instances are removed, the previous one is kept": {view(spec("Never"), up, instance("a", 0, pod.Exited, 1), instance("a", 1, pod.Exited, 1),
			instance("a", 2, pod.Running, 0), running("b")), pod.Plan{Remove: []string{"a0"}}},
		"a late instance beside one that runs is removed": {
			view(spec("Always"), up, running("a"), late("a", 0), running("b")), pod.Plan{Remove: []string{"late a"}},
		},
		"and changes nothing in a back-off": {
			view(spec("Always"), up, backed, late("a", 1), running("b")),
			pod.Plan{Remove: []string{"late a"}, Again: noon().Add(9 * time.Second)},
		},
		"a late sandbox is removed": {
			view(spec("Always", inits("x")), []pod.Sandbox{sandbox(0, true), sandbox(1, true)}, exited("x", 0), running("a"), running("b")),
			pod.Plan{RemoveSandbox: []string{"T"}},
		},
		"of two sandboxes in use the newer stays": {
			view(spec("Always"), []pod.Sandbox{sandbox(0, true), sandbox(1, true)}, running("a"), elsewhere(running("b"))),
			pod.Plan{Kill: []pod.Kill{{ID: "a0", Name: "a", Reason: pod.KillSandbox, Message: "the Pod has another sandbox", Grace: 2 * time.Second}}},
		},
		"and the other is stopped": {
			view(spec("Never"), []pod.Sandbox{sandbox(0, true), sandbox(1, true)}, exited("a", 137), elsewhere(running("b"))),
			pod.Plan{StopSandbox: []string{"S"}},
		},
		"a dead sandbox takes its containers with it": {
			view(spec("Always"), down, running("a"), exited("b", 1)),
			pod.Plan{Kill: []pod.Kill{{ID: "a0", Name: "a", Reason: pod.KillSandbox, Message: "the Pod's sandbox ended", Grace: 2 * time.Second}}},
		},
		"and is replaced": {
			view(spec("Always"), down, exited("a", 137), exited("b", 1)),
			pod.Plan{StopSandbox: []string{"S"}, Sandbox: &pod.NewSandbox{Attempt: 1}},
		},
		"init containers run again in the new one": {
			view(spec("Always", inits("x")), []pod.Sandbox{sandbox(1, true), sandbox(0, false)}, exited("x", 0), exited("a", 137)),
			pod.Plan{Start: []pod.Start{{Name: "x", Attempt: 1}}},
		},
		"an empty replaced sandbox is removed": {view(spec("Always"), []pod.Sandbox{sandbox(1, true), sandbox(0, false)}, func() pod.Container {
			c := running("a")
			c.SandboxID = "T"
			return c
		}(), func() pod.Container {
			c := running("b")
			c.SandboxID = "T"
			return c
		}()), pod.Plan{RemoveSandbox: []string{"S"}}},
		"a Pod whose work is done gets no new sandbox": {view(spec("OnFailure"), down, exited("a", 0), exited("b", 0)), pod.Plan{}},
		"Never gets no second sandbox": {view(spec("Never"), down, exited("a", 0)), pod.Plan{Failed: &pod.RejectError{
			Reason:  "SandboxLost",
			Message: "the Pod's sandbox ended before its containers did, and restartPolicy Never forbids another",
		}}},
		"a finished Pod stays finished and gives back its address": {with(view(spec("Always"), up, exited("a", 0), exited("b", 0)), func(v *pod.View) {
			v.Was.Phase = v1.PodSucceeded
		}), pod.Plan{StopSandbox: []string{"S"}}},
		"and its sidecars stop": {with(view(spec("Never", sidecar("s", false)), up, running("s"), exited("a", 0), exited("b", 0)), func(v *pod.View) {
			v.Was.Phase = v1.PodSucceeded
		}), pod.Plan{Kill: []pod.Kill{{ID: "s0", Name: "s", Reason: pod.KillFinished, Message: "the Pod is finished", Grace: grace}}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, pod.Decide(c.view)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	limit := int64(60)
	p := spec("Always", func(s *v1.PodSpec) { s.ActiveDeadlineSeconds = &limit })
	v := view(p, []pod.Sandbox{sandbox(0, true)}, running("a"), running("b"))
	v.Was.StartTime = &metav1.Time{Time: noon().Add(-59 * time.Second)}
	if plan := pod.Decide(v); plan.Failed != nil || !plan.Again.Equal(noon().Add(time.Second)) {
		t.Errorf("before the deadline: %+v", plan)
	}
	v.Now = noon().Add(time.Second)
	if plan := pod.Decide(v); plan.Failed == nil || plan.Failed.Reason != "DeadlineExceeded" {
		t.Errorf("after the deadline: %+v", plan)
	}
}

func TestEnding(t *testing.T) {
	up := []pod.Sandbox{sandbox(0, true)}
	p := spec("Always", sidecar("s1", false), sidecar("s2", false))
	ending := func(left time.Duration, force bool, containers ...pod.Container) pod.Plan {
		v := view(p, up, containers...)
		v.Ending = &pod.Ending{Deadline: noon().Add(left), Force: force}
		return pod.Decide(v)
	}
	kill := func(name string, grace time.Duration) pod.Kill {
		return pod.Kill{ID: name + "0", Name: name, Reason: pod.KillEnding, Message: "the Pod ends", Grace: grace}
	}
	s1, s2, a, b := running("s1"), running("s2"), running("a"), running("b")
	cases := map[string]struct{ got, want pod.Plan }{
		"apps first and together":        {ending(20*time.Second, false, s1, s2, a, b), pod.Plan{Kill: []pod.Kill{kill("a", 20*time.Second), kill("b", 20*time.Second)}}},
		"then the last sidecar":          {ending(5*time.Second, false, s1, s2, exited("a", 0)), pod.Plan{Kill: []pod.Kill{kill("s2", 5*time.Second)}}},
		"then the first":                 {ending(5*time.Second, false, s1, exited("s2", 0)), pod.Plan{Kill: []pod.Kill{kill("s1", 5*time.Second)}}},
		"never less than two seconds":    {ending(-time.Second, false, a), pod.Plan{Kill: []pod.Kill{kill("a", 2*time.Second)}}},
		"unless by force":                {ending(0, true, a), pod.Plan{Kill: []pod.Kill{kill("a", 0)}}},
		"nothing is started any more":    {ending(time.Second, false), pod.Plan{Ended: true}},
		"nor restarted when it failed":   {ending(time.Second, false, exited("a", 1)), pod.Plan{Ended: true}},
		"what may run counts as running": {ending(9*time.Second, false, instance("a", 0, pod.Unknown, 0)), pod.Plan{Kill: []pod.Kill{kill("a", 9*time.Second)}}},
	}
	for name, c := range cases {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPhase(t *testing.T) {
	up := []pod.Sandbox{sandbox(0, true)}
	cases := map[string]struct {
		view *pod.View
		want v1.PodPhase
	}{
		"nothing yet":                     {view(spec("Always"), nil), v1.PodPending},
		"one container not created":       {view(spec("Always"), up, running("a")), v1.PodPending},
		"all run":                         {view(spec("Always"), up, running("a"), running("b")), v1.PodRunning},
		"one ended, one runs":             {view(spec("Never"), up, exited("a", 1), running("b")), v1.PodRunning},
		"all ended well":                  {view(spec("Never"), up, exited("a", 0), exited("b", 0)), v1.PodSucceeded},
		"one failed":                      {view(spec("Never"), up, exited("a", 0), exited("b", 1)), v1.PodFailed},
		"failed, to be restarted":         {view(spec("OnFailure"), up, exited("a", 0), exited("b", 1)), v1.PodRunning},
		"ended, with Always":              {view(spec("Always"), up, exited("a", 0), exited("b", 0)), v1.PodRunning},
		"init container failed for good":  {view(spec("Never", inits("x")), up, exited("x", 1)), v1.PodFailed},
		"init container failed, again":    {view(spec("Always", inits("x")), up, exited("x", 1)), v1.PodPending},
		"a sidecar's code does not count": {view(spec("Never", sidecar("s", false)), up, exited("s", 1), exited("a", 0), exited("b", 0)), v1.PodSucceeded},
		"never back from Running":         {with(view(spec("Always"), nil), func(v *pod.View) { v.Was.Phase = v1.PodRunning }), v1.PodRunning},
		"never out of Failed":             {with(view(spec("Always"), up, running("a"), running("b")), func(v *pod.View) { v.Was.Phase = v1.PodFailed }), v1.PodFailed},
		"rejected":                        {with(view(spec("Always"), nil), func(v *pod.View) { v.Failed = &pod.RejectError{} }), v1.PodFailed},
		"failed, however its apps end": {with(view(spec("Never", sidecar("s", false)), up, running("s"), exited("a", 0), exited("b", 0)), func(v *pod.View) {
			v.Failed, v.Was.Phase = &pod.RejectError{Reason: "DeadlineExceeded"}, v1.PodRunning
		}), v1.PodRunning},
		"ended by the user after success":     {with(view(spec("Always"), up, exited("a", 0), exited("b", 0)), func(v *pod.View) { v.Ending = &pod.Ending{} }), v1.PodSucceeded},
		"ended by the user before it started": {with(view(spec("Always"), nil), func(v *pod.View) { v.Ending = &pod.Ending{} }), v1.PodFailed},
		"ending, and still running":           {with(view(spec("Always"), up, running("a"), exited("b", 0)), func(v *pod.View) { v.Ending = &pod.Ending{} }), v1.PodRunning},
	}
	for name, c := range cases {
		if got := pod.Phase(c.view); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestRecallKeepsWhatTheRuntimeForgot(t *testing.T) {
	was := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
		{Name: "a", ContainerID: "x://a3", RestartCount: 3, State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 7, Reason: "Error", ContainerID: "x://a3"}}},
		{Name: "b", ContainerID: "x://b0", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
	}}
	seen := &pod.Observation{}
	pod.Recall(was, seen)
	if a := seen.Latest("a"); a == nil || a.ExitCode != 7 || a.Attempt != 3 || a.State != pod.Exited {
		t.Errorf("a ended with 7 and is recalled as %+v", a)
	}
	if b := seen.Latest("b"); b == nil || b.ExitCode != pod.LostExitCode || b.Reason != "ContainerStatusUnknown" {
		t.Errorf("b ran when its record was lost and is recalled as %+v", b)
	}
	never := view(spec("Never"), nil, seen.Containers...)
	if plan := pod.Decide(never); !plan.Empty() || pod.Phase(never) != v1.PodFailed {
		t.Errorf("a Never Pod whose records are lost: phase %s, plan %+v", pod.Phase(never), plan)
	}
	again := view(spec("Always"), []pod.Sandbox{sandbox(0, true)}, seen.Containers...)
	if plan := pod.Decide(again); len(plan.Start) != 2 || plan.Start[0].Attempt != 4 {
		t.Errorf("an Always Pod whose records are lost: %+v", plan)
	}
	there := &pod.Observation{Containers: []pod.Container{instance("a", 4, pod.Running, 0), running("b")}}
	pod.Recall(was, there)
	if len(there.Containers) != 2 {
		t.Errorf("recalled instances that are older than what runs: %+v", there.Containers)
	}
}

// TestRecallLeavesOutWhatNeverRan holds a container that was created, reported
// and removed again before it could start: it did not exit, and a Pod that shall
// not restart still starts it.
func TestRecallLeavesOutWhatNeverRan(t *testing.T) {
	was := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
		{Name: "a", ContainerID: "x://a0", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		{
			Name: "b", ContainerID: "x://b1", RestartCount: 1, State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 7, ContainerID: "x://b1"}},
		},
	}}
	seen := &pod.Observation{}
	pod.Recall(was, seen)
	if a := seen.Latest("a"); a != nil {
		t.Errorf("a never ran and is recalled as %+v", a)
	}
	if b := seen.Latest("b"); b == nil || b.ExitCode != 7 {
		t.Errorf("b ran, waits to be restarted, and is recalled as %+v", b)
	}
}

// TestRecallOfAStatusThatWasReadBack holds what a restarted node knows of a Pod
// that began within one second: its init container has run in this sandbox.
func TestRecallOfAStatusThatWasReadBack(t *testing.T) {
	s := sandbox(0, true)
	s.CreatedAt = noon().Add(200 * time.Millisecond)
	recalled := func(started time.Time) string {
		was := &v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{{
			Name: "x", ContainerID: "x://x0", State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}},
		}}}
		seen := &pod.Observation{Sandboxes: []pod.Sandbox{s}}
		pod.Recall(was, seen)
		return seen.Latest("x").SandboxID
	}
	for started, want := range map[time.Time]string{
		noon():                             s.ID, // cut to its second
		noon().Add(500 * time.Millisecond): s.ID,
		noon().Add(100 * time.Millisecond): "",
		noon().Add(-time.Second):           "",
	} {
		if got := recalled(started); got != want {
			t.Errorf("started at %s: it counts to sandbox %q, want %q", started, got, want)
		}
	}
}

// TestRecallBesideALateInstance holds an instance that ran and is lost, beside one
// that a forgotten call created after it.
func TestRecallBesideALateInstance(t *testing.T) {
	was := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", ContainerID: "x://a0", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}}
	seen := &pod.Observation{Containers: []pod.Container{late("a", 0)}}
	pod.Recall(was, seen)
	if a := seen.Latest("a"); a.ID != "a0" || a.State != pod.Exited {
		t.Errorf("the latest instance is %+v", a)
	}
}

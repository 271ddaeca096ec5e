package status_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/status"
)

func at(s int) time.Time {
	return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Duration(s) * time.Second)
}

func node() status.Node { return status.Node{IPs: []string{"10.0.0.1"}, Runtime: "x"} }

func scene(change func(*pod.View)) *pod.View {
	v := &pod.View{
		Pod: &v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways, Containers: []v1.Container{{Name: "a", Image: "i"}}}},
		Was: &v1.PodStatus{}, Seen: &pod.Observation{}, Now: at(0),
	}
	change(v)
	return v
}

func up(v *pod.View) {
	v.Seen.Sandboxes = []pod.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.1.0.2", "fd00::2"}}}
}

func add(v *pod.View, c pod.Container) {
	c.ID, c.Name, c.SandboxID = "c"+string(rune('0'+c.Attempt)), "a", "s"
	v.Seen.Containers = append([]pod.Container{c}, v.Seen.Containers...)
}

// conditionsOf returns the conditions that are not True, with their reasons.
func conditionsOf(s v1.PodStatus) map[string]string {
	got := map[string]string{}
	for _, c := range s.Conditions {
		if c.Status != v1.ConditionTrue {
			got[string(c.Type)] = c.Reason
		}
	}
	return got
}

func TestContainerStates(t *testing.T) {
	exit := func(code int32, reason string, delay time.Duration) pod.Container {
		return pod.Container{State: pod.Exited, ExitCode: code, Reason: reason, StartedAt: at(-10), FinishedAt: at(-1), Delay: delay}
	}
	cases := map[string]struct {
		view  *pod.View
		state string // the reason, or "running"
		last  string
		ready bool
	}{
		"nothing yet": {scene(func(*pod.View) {}), "ContainerCreating", "", false},
		"init containers first": {
			scene(func(v *pod.View) { v.Pod.Spec.InitContainers = []v1.Container{{Name: "x"}} }),
			"PodInitializing", "", false,
		},
		"a missing volume": {scene(func(v *pod.View) { v.Wait = &pod.WaitError{Reason: "FailedMount", For: "a driver"} }), "ContainerCreating", "", false},
		"a failed pull":    {scene(func(v *pod.View) { v.Blocks = map[string]pod.Block{"a": {Reason: "ErrImagePull"}} }), "ErrImagePull", "", false},
		"running":          {scene(func(v *pod.View) { up(v); add(v, pod.Container{State: pod.Running}) }), "running", "", true},
		"not ready yet": {scene(func(v *pod.View) {
			up(v)
			add(v, pod.Container{State: pod.Running})
			v.Pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{}
		}), "running", "", false},
		"ready by its probe": {scene(func(v *pod.View) {
			up(v)
			add(v, pod.Container{State: pod.Running})
			v.Pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{}
			v.Probes = map[string]pod.Probed{"c0": {Readiness: pod.Success}}
		}), "running", "", true},
		"startup not passed": {scene(func(v *pod.View) {
			up(v)
			add(v, pod.Container{State: pod.Running})
			v.Pod.Spec.Containers[0].StartupProbe = &v1.Probe{}
			v.Probes = map[string]pod.Probed{"c0": {Readiness: pod.Success}}
		}), "running", "", false},
		"about to restart": {scene(func(v *pod.View) { up(v); add(v, exit(1, "", 0)) }), "ContainerCreating", "Error", false},
		"backing off":      {scene(func(v *pod.View) { up(v); add(v, exit(1, "", 10*time.Second)) }), "CrashLoopBackOff", "Error", false},
		"out of memory": {scene(func(v *pod.View) {
			v.Pod.Spec.RestartPolicy = v1.RestartPolicyNever
			add(v, exit(137, "OOMKilled", 0))
		}), "OOMKilled", "", false},
		"completed": {scene(func(v *pod.View) {
			v.Pod.Spec.RestartPolicy = v1.RestartPolicyNever
			add(v, exit(0, "", 0))
		}), "Completed", "", false},
		"ended with the Pod": {scene(func(v *pod.View) { v.Ending = &pod.Ending{}; add(v, exit(143, "", 0)) }), "Error", "", false},
		"restarted": {scene(func(v *pod.View) {
			up(v)
			add(v, exit(2, "", 0))
			add(v, pod.Container{State: pod.Running, Attempt: 1})
		}), "running", "Error", true},
	}
	for name, c := range cases {
		s := status.Compute(c.view, node()).ContainerStatuses[0]
		state, last := "running", ""
		if w := s.State.Waiting; w != nil {
			state = w.Reason
		}
		if x := s.State.Terminated; x != nil {
			state = x.Reason
		}
		if x := s.LastTerminationState.Terminated; x != nil {
			last = x.Reason
		}
		if state != c.state || last != c.last || s.Ready != c.ready {
			t.Errorf("%s: state %q last %q ready %t, want %q %q %t", name, state, last, s.Ready, c.state, c.last, c.ready)
		}
	}
}

func TestConditions(t *testing.T) {
	cases := map[string]struct {
		view *pod.View
		want map[string]string
	}{
		"new": {scene(func(*pod.View) {}), map[string]string{"PodReadyToStartContainers": "", "ContainersReady": "ContainersNotReady", "Ready": "ContainersNotReady"}},
		"waiting": {
			scene(func(v *pod.View) { v.Wait = &pod.WaitError{Reason: "FailedMount", For: "a driver"} }),
			map[string]string{"PodReadyToStartContainers": "FailedMount", "ContainersReady": "ContainersNotReady", "Ready": "ContainersNotReady"},
		},
		"initializing": {
			scene(func(v *pod.View) { up(v); v.Pod.Spec.InitContainers = []v1.Container{{Name: "x"}} }),
			map[string]string{"Initialized": "ContainersNotInitialized", "ContainersReady": "ContainersNotReady", "Ready": "ContainersNotReady"},
		},
		"ready": {scene(func(v *pod.View) { up(v); add(v, pod.Container{State: pod.Running}) }), map[string]string{}},
		"a gate": {scene(func(v *pod.View) {
			up(v)
			add(v, pod.Container{State: pod.Running})
			v.Pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "g"}}
		}), map[string]string{"Ready": "ReadinessGatesNotReady"}},
		"succeeded": {scene(func(v *pod.View) {
			v.Pod.Spec.RestartPolicy = v1.RestartPolicyNever
			add(v, pod.Container{State: pod.Exited})
		}), map[string]string{"PodReadyToStartContainers": "", "ContainersReady": "PodCompleted", "Ready": "PodCompleted"}},
	}
	for name, c := range cases {
		if diff := cmp.Diff(c.want, conditionsOf(status.Compute(c.view, node()))); diff != "" {
			t.Errorf("%s: not True (-want +got):\n%s", name, diff)
		}
	}
}

// TestEphemeralContainers: their statuses are listed apart, and they count for
// nothing.
func TestEphemeralContainers(t *testing.T) {
	v := scene(func(v *pod.View) {
		up(v)
		add(v, pod.Container{State: pod.Running})
		v.Pod.Spec.InitContainers = []v1.Container{{Name: "x"}}
		for _, name := range []string{"e", "late"} {
			v.Pod.Spec.EphemeralContainers = append(v.Pod.Spec.EphemeralContainers,
				v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: name, Image: "i"}})
		}
		v.Seen.Containers = append(v.Seen.Containers, pod.Container{ID: "e0", Name: "e", SandboxID: "s", State: pod.Running, StartedAt: at(-1)})
		v.Blocks = map[string]pod.Block{"late": {Reason: "ErrImagePull"}}
	})
	s := status.Compute(v, node())
	want := []v1.ContainerStatus{
		{Name: "e", Image: "i", ContainerID: "x://e0", State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(at(-1))}}},
		{Name: "late", Image: "i", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}},
	}
	if diff := cmp.Diff(want, s.EphemeralContainerStatuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if got := conditionsOf(s); len(got) > 0 || s.Phase != v1.PodRunning {
		t.Errorf("phase %s, not True: %v", s.Phase, got)
	}
}

func TestWhatStaysOverTime(t *testing.T) {
	v := scene(func(v *pod.View) { up(v); add(v, pod.Container{State: pod.Running, StartedAt: at(-1)}) })
	first := status.Compute(v, node())
	if first.PodIP != "10.1.0.2" || len(first.PodIPs) != 2 || first.HostIP != "10.0.0.1" || !first.StartTime.Time.Equal(at(0)) {
		t.Errorf("addresses and start: %+v", first)
	}
	v.Was, v.Now = first.DeepCopy(), at(60)
	if second := status.Compute(v, node()); !equality.Semantic.DeepEqual(first, second) {
		t.Errorf("a minute later nothing has changed, and the status has:\n%s", cmp.Diff(first, second))
	}
	v.Seen = &pod.Observation{}
	v.Ending = &pod.Ending{}
	ended := status.Compute(v, node())
	if ended.PodIP != first.PodIP || !ended.StartTime.Equal(first.StartTime) {
		t.Errorf("an ended Pod lost its address or its start: %+v", ended)
	}
	for _, c := range ended.Conditions {
		if c.Type == v1.PodReady && (c.Status != v1.ConditionFalse || !c.LastTransitionTime.Equal(&metav1.Time{Time: at(60)})) {
			t.Errorf("Ready %+v", c)
		}
		if c.Type == v1.PodScheduled && !c.LastTransitionTime.Time.Equal(at(0)) {
			t.Errorf("PodScheduled moved: %+v", c)
		}
	}
}

func TestRestartCountNeverFalls(t *testing.T) {
	v := scene(func(v *pod.View) { up(v); add(v, pod.Container{State: pod.Running, Attempt: 0}) })
	v.Was.ContainerStatuses = []v1.ContainerStatus{{Name: "a", RestartCount: 4}}
	if got := status.Compute(v, node()).ContainerStatuses[0].RestartCount; got != 4 {
		t.Errorf("restart count %d, want 4", got)
	}
}

// TestAdmission: nothing is recorded of a Pod that waits for room on the node;
// that it was let in is its startTime.
func TestAdmission(t *testing.T) {
	limits := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}}
	v := scene(func(v *pod.View) {
		v.Admitting, v.Wait = true, &pod.WaitError{Reason: "NodePorts", For: "a port"}
		v.Pod.Spec.Containers[0].Resources = limits
	})
	s := status.Compute(v, node())
	if c := s.ContainerStatuses[0]; s.StartTime != nil || c.Resources != nil || c.AllocatedResources != nil || s.Phase != v1.PodPending {
		t.Errorf("before: %+v", s)
	}
	v.Failed = &pod.RejectError{Reason: "NodePorts", Message: "taken"}
	if s := status.Compute(v, node()); s.StartTime == nil || s.Phase != v1.PodFailed || s.Reason != "NodePorts" || s.Message != "taken" {
		t.Errorf("refused: %+v", s)
	}
	v.Failed, v.Admitting = nil, false
	s = status.Compute(v, node())
	if c := s.ContainerStatuses[0]; s.StartTime == nil || c.Resources == nil || c.AllocatedResources.Cpu().String() != "1" {
		t.Errorf("admitted: %+v", s)
	}
}

func TestResize(t *testing.T) {
	cpu := func(n string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(n)}}
	}
	conditions := func(v *pod.View) map[string]string {
		got := map[string]string{}
		for _, c := range status.Compute(v, node()).Conditions {
			if c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress {
				got[string(c.Type)] = string(c.Status) + " " + c.Reason + " " + c.Message
			}
		}
		return got
	}
	has := cpu("1")
	v := scene(func(v *pod.View) {
		up(v)
		add(v, pod.Container{State: pod.Running, Resources: &has})
		v.Pod.Spec.Containers[0].Resources = cpu("2")
	})
	if diff := cmp.Diff(map[string]string{"PodResizeInProgress": "True  "}, conditions(v)); diff != "" {
		t.Errorf("in progress (-want +got):\n%s", diff)
	}
	c := status.Compute(v, node()).ContainerStatuses[0]
	if c.Resources.Requests.Cpu().String() != "1" || c.AllocatedResources.Cpu().String() != "2" {
		t.Errorf("the instance has %v, and %v is allocated", c.Resources, c.AllocatedResources)
	}
	v.Resizes = map[string]pod.Block{"c0": {Message: "no"}}
	if diff := cmp.Diff(map[string]string{"PodResizeInProgress": "True Error no"}, conditions(v)); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	s := status.Compute(v, node())
	v.Was = &s
	v.Pod.Spec.Containers[0].Resources, v.Pending = has, &pod.ResizePending{Reason: "Deferred", Message: "later"}
	if diff := cmp.Diff(map[string]string{"PodResizePending": "True Deferred later"}, conditions(v)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	v.Pending = nil
	if diff := cmp.Diff(map[string]string{}, conditions(v)); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
}

// TestWhatRanStaysOnRecord holds what Recall needs when the runtime loses a
// container in two steps: first its state, then its record.
func TestWhatRanStaysOnRecord(t *testing.T) {
	v := scene(up)
	add(v, pod.Container{State: pod.Running, StartedAt: at(-10), Attempt: 2})
	was := status.Compute(v, node())
	v.Was, v.Seen.Containers[0].State = &was, pod.Unknown
	lost := status.Compute(v, node())
	if lost.ContainerStatuses[0].State.Running == nil || lost.ContainerStatuses[0].Ready {
		t.Errorf("of unknown state: %+v", lost.ContainerStatuses[0])
	}
	v.Was, v.Seen.Containers = &lost, nil
	if got := status.Compute(v, node()).ContainerStatuses[0]; got.RestartCount != 2 {
		t.Errorf("without a record: %+v", got)
	}
}

// TestInitContainerOfAnotherSandboxRunsAgain holds what the plan does in a new
// sandbox, as long as no app container is in it.
func TestInitContainerOfAnotherSandboxRunsAgain(t *testing.T) {
	v := scene(up)
	v.Pod.Spec.InitContainers = []v1.Container{{Name: "x", Image: "i"}}
	v.Seen.Containers = []pod.Container{{ID: "x0", Name: "x", SandboxID: "old", State: pod.Exited, FinishedAt: at(-1), Delay: time.Minute}}
	s := status.Compute(v, node()).InitContainerStatuses[0]
	if s.State.Waiting == nil || s.State.Waiting.Reason == "CrashLoopBackOff" || s.LastTerminationState.Terminated == nil {
		t.Errorf("in a new sandbox: %+v", s)
	}
	add(v, pod.Container{State: pod.Running})
	if s = status.Compute(v, node()).InitContainerStatuses[0]; s.State.Terminated == nil {
		t.Errorf("beside an app container: %+v", s)
	}
}

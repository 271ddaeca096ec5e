package pod_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// has is "cpu request/memory limit": resources with both, or without the second.
func has(cpu, memory string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}
	if memory != "" {
		r.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	}
	return r
}

// wants sets what container a shall have, and how it takes a change.
func wants(r v1.ResourceRequirements, policy ...v1.ContainerResizePolicy) func(*v1.PodSpec) {
	return func(s *v1.PodSpec) { s.Containers[0].Resources, s.Containers[0].ResizePolicy = r, policy }
}

func given(c pod.Container, r v1.ResourceRequirements) pod.Container {
	c.Resources = &r
	return c
}

func TestResizePlan(t *testing.T) {
	up := []pod.Sandbox{sandbox(0, true)}
	small, big := has("100m", "64Mi"), has("200m", "64Mi")
	more := has("100m", "128Mi")
	restart := v1.ContainerResizePolicy{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}
	gone := exited("a", 1)
	gone.Delay = time.Minute
	cases := map[string]struct {
		view *pod.View
		want pod.Plan
	}{
		"nothing to change":   {view(spec("Always", wants(small)), up, given(running("a"), small), running("b")), pod.Plan{}},
		"nothing is known":    {view(spec("Always", wants(small)), up, running("a"), running("b")), pod.Plan{}},
		"a change":            {view(spec("Always", wants(big, restart)), up, given(running("a"), small), running("b")), pod.Plan{Update: []pod.Update{{ID: "a0", Name: "a", From: small, To: big}}}},
		"the same quantities": {view(spec("Always", wants(has("0.1", "65536Ki"))), up, given(running("a"), small), running("b")), pod.Plan{}},
		"a change that restarts": {view(spec("Always", wants(more, restart)), up, given(running("a"), small), running("b")), pod.Plan{Kill: []pod.Kill{{
			ID: "a0", Name: "a", Reason: pod.KillResized, Grace: 30 * time.Second, Message: "its resources change, and its resizePolicy asks for a restart",
		}}}},
		"and does not wait to": {
			view(spec("Always", wants(more, restart)), up, given(gone, small), running("b")),
			pod.Plan{Start: []pod.Start{{Name: "a", Attempt: 1}}},
		},
		"one that failed waits": {with(view(spec("Always", wants(big)), up, given(running("a"), small), running("b")), func(v *pod.View) {
			v.Resizes = map[string]pod.Block{"a0": {Until: noon().Add(time.Second)}}
		}), pod.Plan{Again: noon().Add(time.Second)}},
		"an ending Pod is not resized": {with(view(spec("Always", wants(big)), up, given(running("a"), small)), func(v *pod.View) {
			v.Ending = &pod.Ending{Deadline: noon().Add(time.Second), Force: true}
		}), pod.Plan{Kill: []pod.Kill{{ID: "a0", Name: "a", Reason: pod.KillEnding, Message: "the Pod ends", Grace: time.Second}}}},
		"nothing is done before admission": {with(view(spec("Always"), nil), func(v *pod.View) { v.Admitting = true }), pod.Plan{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, pod.Decide(c.view)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSettled(t *testing.T) {
	old, wish := has("100m", "64Mi"), has("200m", "64Mi")
	record := func(r v1.ResourceRequirements) *v1.PodStatus {
		return &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", Resources: &r, AllocatedResources: r.Requests}}}
	}
	cases := map[string]struct {
		spec v1.ResourceRequirements
		was  *v1.PodStatus
		want v1.ResourceRequirements
	}{
		"never recorded":     {wish, &v1.PodStatus{}, wish},
		"as recorded":        {old, record(old), old},
		"another request":    {wish, record(old), old},
		"another limit only": {has("100m", "1Gi"), record(old), has("100m", "1Gi")},
		"from nothing":       {wish, record(v1.ResourceRequirements{}), v1.ResourceRequirements{}},
		"granted, and the instance still has the old": {wish, &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{
			Name: "a", Resources: &old, AllocatedResources: wish.Requests,
		}}}, wish},
	}
	for name, c := range cases {
		p := spec("Always", wants(c.spec))
		if diff := cmp.Diff(c.want, pod.Settled(p, c.was).Spec.Containers[0].Resources); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(c.spec, p.Spec.Containers[0].Resources); diff != "" {
			t.Errorf("%s: the Pod itself was changed:\n%s", name, diff)
		}
	}
}

// TestRecallResources: what this process did is newer than the record, and the
// record is newer than the annotation that the observation brings.
func TestRecallResources(t *testing.T) {
	first, second, third := has("1", ""), has("2", ""), has("3", "")
	was := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
		{Name: "a", ContainerID: "x://a0", Resources: &second, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
		{Name: "b", ContainerID: "x://b0", Resources: &second}, // not running: that is what it would be given
	}}
	get := func(updated map[string]v1.ResourceRequirements, name string) v1.ResourceRequirements {
		seen := &pod.Observation{Containers: []pod.Container{given(running("a"), first), given(running("b"), first)}}
		pod.RecallResources(was, updated, seen)
		return *seen.Latest(name).Resources
	}
	for what, pair := range map[string][2]v1.ResourceRequirements{
		"by the record": {second, get(nil, "a")}, "by the annotation": {first, get(nil, "b")},
		"by this process": {third, get(map[string]v1.ResourceRequirements{"a0": third}, "a")},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

func TestWidest(t *testing.T) {
	seen := &pod.Observation{Containers: []pod.Container{given(running("a"), has("300m", "64Mi")), given(running("b"), has("1", "1Gi"))}}
	p := pod.Widest(spec("Always", wants(has("200m", "128Mi"))), seen)
	want := []v1.ResourceRequirements{has("300m", "128Mi"), {
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}, Limits: v1.ResourceList{}, // b shall have no limit
	}}
	if diff := cmp.Diff(want, []v1.ResourceRequirements{p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources}); diff != "" {
		t.Errorf("widest (-want +got):\n%s", diff)
	}
}

func TestRequests(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	c := func(cpu string) v1.Container { return v1.Container{Resources: has(cpu, "")} }
	side := c("300m")
	side.RestartPolicy = &always
	p := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{c("1"), side, c("900m")}, Containers: []v1.Container{c("200m"), {Resources: v1.ResourceRequirements{
		Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("1Mi")},
	}}}}}
	if got, want := pod.Requests(p), (pod.Amount{MilliCPU: 1200, Memory: 1 << 20}); got != want {
		t.Errorf("init containers beside a sidecar: %+v, want %+v", got, want)
	}
	p.Spec.InitContainers = p.Spec.InitContainers[:2]
	p.Spec.InitContainers[0] = c("100m")
	p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("50m")}
	if got, want := pod.Requests(p), (pod.Amount{MilliCPU: 650, Memory: 1 << 20}); got != want {
		t.Errorf("apps, a sidecar and overhead: %+v, want %+v", got, want)
	}
	own := has("2", "")
	p.Spec.Resources = &own
	if got, want := pod.Requests(p), (pod.Amount{MilliCPU: 2050, Memory: 1 << 20}); got != want {
		t.Errorf("of the Pod itself: %+v, want %+v", got, want)
	}
}

package pod_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// debugged adds an ephemeral container "e".
func debugged(s *v1.PodSpec) {
	s.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e", Image: "i"}}}
}

func TestEphemeralContainers(t *testing.T) {
	up := []pod.Sandbox{sandbox(0, true)}
	second := []pod.Sandbox{sandbox(1, true), sandbox(0, false)}
	inSecond := func(c pod.Container) pod.Container {
		c.SandboxID = "T"
		return c
	}
	kill := func(name, reason, message string) pod.Kill {
		return pod.Kill{ID: name + "0", Name: name, Reason: reason, Message: message, Grace: 30 * time.Second}
	}
	cases := map[string]struct {
		view *pod.View
		want pod.Plan
	}{
		"starts beside what runs": {
			view(spec("Always", debugged), up, running("a"), running("b")),
			pod.Plan{Start: []pod.Start{{Name: "e"}}},
		},
		"does not wait for init containers": {
			view(spec("Always", debugged, inits("x")), up, running("x")),
			pod.Plan{Start: []pod.Start{{Name: "e"}}},
		},
		"does not let init containers be passed over": {
			view(spec("Always", debugged, inits("x")), up, running("e")),
			pod.Plan{Start: []pod.Start{{Name: "x"}}},
		},
		"is never started again after success": {view(spec("Always", debugged), up, running("a"), running("b"), exited("e", 0)), pod.Plan{}},
		"nor after a failure":                  {view(spec("Always", debugged), up, running("a"), running("b"), exited("e", 1)), pod.Plan{}},
		"nor in a new sandbox": {
			view(spec("Always", debugged), second, inSecond(running("a")), inSecond(running("b")), exited("e", 137)),
			pod.Plan{},
		},
		"an interrupted start is repeated": {
			view(spec("Always", debugged), up, running("a"), running("b"), instance("e", 0, pod.Created, 0)),
			pod.Plan{Remove: []string{"e0"}, Start: []pod.Start{{Name: "e"}}},
		},
		"waits for its image": {with(view(spec("Always", debugged), up, running("a"), running("b")), func(v *pod.View) {
			v.Blocks = map[string]pod.Block{"e": {Until: noon().Add(time.Minute)}}
		}), pod.Plan{Again: noon().Add(time.Minute)}},
		"does not start in a Pod whose work is done": {view(spec("Never", debugged), up, exited("a", 0), exited("b", 0)), pod.Plan{}},
		"stops when the Pod is finished": {with(view(spec("Never", debugged), up, exited("a", 0), exited("b", 0), running("e")), func(v *pod.View) {
			v.Was.Phase = v1.PodSucceeded
		}), pod.Plan{Kill: []pod.Kill{kill("e", pod.KillFinished, "the Pod is finished")}}},
		"stops with the app containers": {with(view(spec("Always", debugged), up, running("a"), exited("b", 0), running("e")), func(v *pod.View) {
			v.Ending = &pod.Ending{Deadline: noon().Add(30 * time.Second)}
		}), pod.Plan{Kill: []pod.Kill{kill("a", pod.KillEnding, "the Pod ends"), kill("e", pod.KillEnding, "the Pod ends")}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, pod.Decide(c.view)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEphemeralContainersHaveNoPhase: what they do says nothing of the Pod.
func TestEphemeralContainersHaveNoPhase(t *testing.T) {
	up := []pod.Sandbox{sandbox(0, true)}
	for want, v := range map[v1.PodPhase]*pod.View{
		v1.PodPending:   view(spec("Always", debugged), up, running("e")),
		v1.PodRunning:   view(spec("Always", debugged), up, running("a"), running("b"), exited("e", 1)),
		v1.PodSucceeded: view(spec("Never", debugged), up, exited("a", 0), exited("b", 0), running("e")),
	} {
		if got := pod.Phase(v); got != want {
			t.Errorf("phase %s, want %s", got, want)
		}
	}
}

// TestRecallKeepsEphemeralContainers: after a reboot one is not started again.
func TestRecallKeepsEphemeralContainers(t *testing.T) {
	was := &v1.PodStatus{EphemeralContainerStatuses: []v1.ContainerStatus{
		{Name: "e", ContainerID: "x://e0", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
	}}
	v := view(spec("Always", debugged), []pod.Sandbox{sandbox(0, true)}, running("a"), running("b"))
	pod.Recall(was, v.Seen)
	if plan := pod.Decide(v); !plan.Empty() {
		t.Errorf("plan %+v", plan)
	}
}

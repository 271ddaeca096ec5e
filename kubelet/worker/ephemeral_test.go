package worker_test

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// debugged returns the Pod with an ephemeral container "e" of the image.
func debugged(p *v1.Pod, image, target string) *v1.Pod {
	p = p.DeepCopy()
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{{
		EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e", Image: image}, TargetContainerName: target,
	}}
	return p
}

func TestEphemeralContainerStartsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Update(debugged(p, "image:1", ""))
		expect(t, w, "as soon as it is asked for", "create e", "start")
		w.exit("c3", 1)
		expect(t, w, "never again")
		if got := w.last().Phase; got != v1.PodRunning {
			t.Errorf("phase %s", got)
		}
		w.manager.Update(ending(debugged(p, "image:1", ""), 30))
		expect(t, w, "end", append([]string{"stop 30"}, takenAway()...)...)
	})
}

func TestEphemeralContainerWaitsForItsImage(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.failing("pull", errDown)
		w.manager.Update(debugged(p, "absent:1", ""))
		expect(t, w, "the first try", "pull absent:1")
		if got := w.last(); got.Message != "ErrImagePull" || got.Phase != v1.PodRunning {
			t.Errorf("status %+v", got)
		}
		w.failing("pull", nil)
		time.Sleep(11 * time.Second)
		expect(t, w, "after the back-off", "pull absent:1", "create e", "start")
	})
}

// TestEphemeralContainerSeesItsTarget: it gets the id of the instance that runs,
// and waits for one.
func TestEphemeralContainerSeesItsTarget(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.exit("c2", 1)
		expect(t, w, "restart", "create a", "start")
		w.exit("c3", 1) // now it backs off
		w.manager.Update(debugged(p, "image:1", "a"))
		expect(t, w, "while the target is down")
		if got := w.last().Message; got != "CreateContainerConfigError" {
			t.Errorf("the status says %q", got)
		}
		time.Sleep(11 * time.Second)
		expect(t, w, "the target is back", "create a", "start", "remove")
		time.Sleep(16 * time.Second)
		expect(t, w, "and so is the other", "create e of c4", "start")
		w.change("c5", func(c *pod.Container) {
			if c.Name != "e" {
				t.Errorf("c5 is %s", c.Name)
			}
		})
	})
}

package worker_test

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func TestRejectedByTheNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("admit", &pod.RejectError{Reason: "OutOfcpu", Message: "too much"})
		w.manager.Update(somePod("1"))
		expect(t, w, "nothing is started", "unmount", "release")
		if got := w.last(); got.Phase != v1.PodFailed || got.Reason != "OutOfcpu" {
			t.Errorf("status %+v", got)
		}
		hear(t, w, "why", "Warning OutOfcpu: too much")
		w.failing("admit", nil)
		w.manager.Wake("1")
		expect(t, w, "for good")
	})
}

// TestWaitingForRoom: the Pod is woken when another gives back what it holds,
// and other Pods run meanwhile.
func TestWaitingForRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		other := somePod("2")
		other.Name = "other"
		w.manager.Update(other)
		expect(t, w, "the holder", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.failing("admit", &pod.WaitError{Reason: "NodePorts", For: "another Pod's end"})
		w.manager.Update(somePod("1"))
		expect(t, w, "nothing is started")
		if got := w.last(); got.Message != "waiting for another Pod's end" || got.Phase != v1.PodPending {
			t.Errorf("status %+v", got)
		}
		time.Sleep(2 * time.Second)
		expect(t, w, "nothing is started")
		w.stubborn = true
		w.manager.Update(ending(other, 2))
		time.Sleep(2100 * time.Millisecond) // its own next try is later
		expect(t, w, "the holder ends", "stop 2", "stopsandbox", "removesandbox", "unmount", "release",
			"clean", "rmcgroup", "rmdir", "gone", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
	})
}

func TestEndingWhileItWaitsForRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("admit", &pod.WaitError{Reason: "NodePorts", For: "another Pod's end"})
		w.manager.Update(somePod("1"))
		expect(t, w, "nothing is started")
		w.manager.Update(ending(somePod("1"), 30))
		expect(t, w, "it ends at once", takenAway()[2:]...)
	})
}

// TestAdmittedOnce: a Pod with a startTime, or with anything in the runtime, is
// not asked for again, whatever the answer would be.
func TestAdmittedOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("admit", &pod.RejectError{Reason: "OutOfcpu", Message: "too much"})
		p := somePod("1")
		p.Status.StartTime = &metav1.Time{Time: time.Now()}
		w.manager.Update(p)
		expect(t, w, "it was admitted", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.mu.Lock()
		w.pods["2"] = &pod.Observation{Sandboxes: []pod.Sandbox{{ID: "s", Ready: true}}}
		w.mu.Unlock()
		q := somePod("2")
		q.Name = "q"
		w.manager.Update(q)
		expect(t, w, "it was begun", "allocate", "cgroup", "mount", "create a", "start")
		if len(w.adopted) != 2 {
			t.Errorf("adopted %v", w.adopted)
		}
	})
}

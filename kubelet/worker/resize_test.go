package worker_test

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// limited gives container a a memory request and limit.
func limited(p *v1.Pod, memory string) *v1.Pod {
	p = p.DeepCopy()
	p.Generation++
	list := v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: list, Limits: list}
	return p
}

func TestResizeInPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		p := limited(somePod("1"), "64Mi")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		hear(t, w, "start", present, created, started)
		w.manager.Update(limited(p, "128Mi"))
		expect(t, w, "the cgroup around the container", "cgroup", "update c2 134217728", "cgroup")
		hear(t, w, "it says so", "Normal ResizeCompleted spec.containers{a}: Resized container a")
		w.manager.Wake("1")
		expect(t, w, "once")
		w.manager.Update(limited(p, "64Mi"))
		expect(t, w, "and back", "cgroup", "update c2 67108864", "cgroup")
	})
}

// TestResizeThatFails is tried again with back-off, and nothing else waits for it.
func TestResizeThatFails(t *testing.T) {
	inWorld(t, func(w *world) {
		p := limited(somePod("1"), "64Mi")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.failing("update", errDown)
		w.manager.Update(limited(p, "128Mi"))
		expect(t, w, "the first try", "cgroup", "update c2 134217728", "cgroup")
		time.Sleep(900 * time.Millisecond)
		expect(t, w, "not at once")
		time.Sleep(200 * time.Millisecond)
		expect(t, w, "after a second", "cgroup", "update c2 134217728", "cgroup")
		w.failing("update", nil)
		time.Sleep(3 * time.Second)
		expect(t, w, "and then", "cgroup", "update c2 134217728", "cgroup")
	})
}

// TestShrinkBelowUse: the container of the world uses 10 MiB.
func TestShrinkBelowUse(t *testing.T) {
	inWorld(t, func(w *world) {
		p := limited(somePod("1"), "64Mi")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Update(limited(p, "8Mi"))
		expect(t, w, "the runtime is not asked", "cgroup", "cgroup")
		hear(t, w, "why", present, created, started,
			"Warning ResizeError spec.containers{a}: Resizing container a: the container uses 10485760 bytes of memory, more than the new limit of 8388608")
		w.manager.Update(limited(p, "64Mi"))
		time.Sleep(3 * time.Second)
		expect(t, w, "it is taken back")
	})
}

// TestResizeThatIsNotGranted: the Pod keeps what it has, also for a container
// that restarts, until there is room.
func TestResizeThatIsNotGranted(t *testing.T) {
	inWorld(t, func(w *world) {
		p := limited(somePod("1"), "64Mi")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.failing("resize", &pod.WaitError{Reason: "OutOfmemory", For: "room"})
		w.manager.Update(limited(p, "128Mi"))
		expect(t, w, "nothing changes")
		if got := w.pending(); got != "Deferred: waiting for room" {
			t.Errorf("pending %q", got)
		}
		w.exit("c2", 1)
		expect(t, w, "it restarts", "create a", "start")
		w.mu.Lock()
		if got := w.pods["1"].Latest("a"); len(w.pods["1"].Containers) != 2 {
			t.Errorf("containers %+v", got)
		}
		restarted := w.pods["1"].Containers[1].Resources.Limits.Memory().String()
		w.mu.Unlock()
		if restarted != "64Mi" {
			t.Errorf("the container was started again with %s, which it was not granted", restarted)
		}
		w.failing("resize", &pod.RejectError{Reason: "OutOfmemory", Message: "never"})
		w.manager.Wake("1")
		synctest.Wait()
		if got := w.pending(); got != "Infeasible: never" {
			t.Errorf("pending %q", got)
		}
		w.failing("resize", nil)
		w.manager.Wake("1")
		expect(t, w, "granted", "cgroup", "update c3 134217728", "cgroup")
		if got := w.pending(); got != "" {
			t.Errorf("pending %q", got)
		}
	})
}

func (w *world) pending() string {
	for _, c := range w.last().Conditions {
		if c.Type == v1.PodResizePending {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}

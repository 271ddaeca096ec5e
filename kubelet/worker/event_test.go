package worker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// hear checks the events since the last call.
func hear(t *testing.T, w *world, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	got := w.events
	w.events = nil
	w.mu.Unlock()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const (
	present = `Normal Pulled spec.containers{a}: Image "image:1" is already present on machine`
	created = "Normal Created spec.containers{a}: Created container a"
	started = "Normal Started spec.containers{a}: Started container a"
)

func TestEventsOfALife(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		hear(t, w, "start", present, created, started)
		w.exit("c2", 1)
		hear(t, w, "the first restart is at once", present, created, started)
		w.exit("c3", 1)
		hear(t, w, "the second waits", "Warning BackOff spec.containers{a}: back-off 10s restarting container a")
		w.manager.Wake("1")
		hear(t, w, "and says so once")
		time.Sleep(11 * time.Second)
		hear(t, w, "restart", present, created, started)
		w.manager.Update(ending(p, 30))
		hear(t, w, "end", "Normal Killing spec.containers{a}: Stopping container a")
	})
}

func TestEventsOfAPull(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("pull", errDown)
		w.manager.Update(somePod("1", func(s *v1.PodSpec) { s.Containers[0].Image = "absent:1" }))
		pulling := `Normal Pulling spec.containers{a}: Pulling image "absent:1"`
		hear(t, w, "the first try", pulling, "Warning Failed spec.containers{a}: it is down")
		time.Sleep(11 * time.Second)
		hear(t, w, "the second", pulling, "Warning Failed spec.containers{a}: it is down", `Normal BackOff spec.containers{a}: Back-off pulling image "absent:1"`)
		w.failing("pull", nil)
		time.Sleep(21 * time.Second)
		hear(t, w, "success", pulling, `Normal Pulled spec.containers{a}: Pulled image "absent:1" in 0s`, created, started)
	})
}

// TestOneOccurrenceIsOneEvent: a worker that tries every half second does not
// tell of each.
func TestOneOccurrenceIsOneEvent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("mount", &pod.WaitError{Reason: "FailedMount", For: "the driver"})
		w.manager.Update(somePod("1"))
		time.Sleep(5 * time.Second)
		if tries := len(w.did()); tries < 6 {
			t.Errorf("only %d calls: nothing was tried again", tries)
		}
		hear(t, w, "one failure", "Warning FailedMount: waiting for the driver")
		w.failing("mount", nil)
		w.manager.Retry(func(*v1.Pod) bool { return true })
		hear(t, w, "and then", present, created, started)
	})
}

func TestKillThatFailsIsToldOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		hear(t, w, "start", present, created, started)
		w.failing("stop", errDown)
		w.manager.Update(ending(p, 30))
		time.Sleep(time.Second)
		w.failing("stop", nil)
		time.Sleep(10 * time.Second)
		hear(t, w, "end", "Normal Killing spec.containers{a}: Stopping container a",
			`Warning FailedSync: carrying out the plan: stopping container "c2": it is down`)
	})
}

func TestEventsOfHooks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("exec", errDown)
		w.manager.Update(somePod("1", func(s *v1.PodSpec) {
			s.RestartPolicy = v1.RestartPolicyNever
			hook := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}}
			s.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: hook}
		}))
		hear(t, w, "postStart", present, created, started,
			`Warning FailedPostStartHook spec.containers{a}: The postStart hook failed: running "hello": it is down`,
			"Normal Killing spec.containers{a}: Stopping container a: its postStart hook failed")
		p := somePod("2", func(s *v1.PodSpec) {
			hook := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bye"}}}
			s.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: hook}
		})
		p.Name = "q"
		w.manager.Update(p)
		hear(t, w, "start", present, created, started)
		w.manager.Update(ending(p, 30))
		hear(t, w, "preStop", "Normal Killing spec.containers{a}: Stopping container a",
			`Warning FailedPreStopHook spec.containers{a}: The preStop hook failed: running "bye": it is down`)
	})
}

func TestEventsOfSandboxes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("sandbox", errDown)
		w.manager.Update(somePod("1"))
		hear(t, w, "no sandbox", "Warning FailedCreatePodSandBox: waiting for its sandbox: it is down")
		w.failing("network?", errDown)
		time.Sleep(time.Second)
		hear(t, w, "because of the network", "Warning NetworkNotReady: waiting for the runtime's network: it is down\nit is down")
		w.failing("sandbox", nil)
		time.Sleep(16 * time.Second)
		hear(t, w, "mended", present, created, started)
		w.failing("sandbox", errDown)
		w.mu.Lock()
		w.pods["1"].Sandboxes[0].Ready = false
		w.mu.Unlock()
		w.manager.Wake("1")
		time.Sleep(5 * time.Second)
		hear(t, w, "the sandbox ends", "Normal Killing spec.containers{a}: Stopping container a: the Pod's sandbox ended",
			"Normal SandboxChanged: The Pod's sandbox ended: it is replaced",
			"Warning NetworkNotReady: waiting for the runtime's network: it is down\nit is down")
	})
}

func TestEventOfARejectedPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("allocate", &pod.RejectError{Reason: "UnexpectedAdmissionError", Message: "never"})
		w.manager.Update(somePod("1"))
		hear(t, w, "once", "Warning UnexpectedAdmissionError: never")
		w.manager.Wake("1")
		hear(t, w, "and not again")
	})
}

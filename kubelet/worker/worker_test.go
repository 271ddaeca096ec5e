package worker_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func expect(t *testing.T, w *world, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, w.did()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// takenAway is how a Pod ends once its containers have.
func takenAway() []string {
	return []string{"stopsandbox", "removesandbox", "unmount", "release", "clean", "rmcgroup", "rmdir", "gone"}
}

func TestLifeInOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		if got := w.last().Phase; got != v1.PodRunning {
			t.Errorf("phase %s", got)
		}
		w.manager.Update(ending(p, 30))
		expect(t, w, "end", append([]string{"stop 30"}, takenAway()...)...)
		if want := []string{"phase Pending", "volume v", "sandbox", "container a", "phase Running", "exit a", "phase Failed", "end"}; !slices.Equal(w.steps, want) {
			t.Errorf("steps %v, want %v", w.steps, want)
		}
	})
}

func TestStatusOfOthersWakesNobody(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.failing("observe", errDown) // a look would be seen as trouble
		told := p.DeepCopy()
		told.Status.Phase = v1.PodRunning
		w.manager.Update(told)
		expect(t, w, "a status update")
		w.failing("observe", nil)
	})
}

func TestRestartAndBackOff(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Update(somePod("1"))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.exit("c2", 1)
		expect(t, w, "first restart, at once", "create a", "start")
		w.exit("c3", 1)
		time.Sleep(9 * time.Second)
		expect(t, w, "within the delay")
		time.Sleep(2 * time.Second)
		expect(t, w, "after 10 s", "create a", "start", "remove") // of the oldest instance
		w.exit("c4", 1)
		time.Sleep(19 * time.Second)
		expect(t, w, "within the doubled delay")
		time.Sleep(2 * time.Second)
		expect(t, w, "after 20 s", "create a", "start", "remove")
	})
}

func TestWaitingForAVolume(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("mount", &pod.WaitError{Reason: "FailedMount", For: "the driver"})
		w.manager.Update(somePod("1"))
		expect(t, w, "first try", "allocate", "cgroup", "mount")
		if got := w.last().Message; got != "waiting for the driver" {
			t.Errorf("the status says %q", got)
		}
		time.Sleep(600 * time.Millisecond)
		expect(t, w, "again by itself", "allocate", "cgroup", "mount")
		w.failing("mount", nil)
		w.manager.Retry(func(p *v1.Pod) bool { return p.UID != "1" })
		expect(t, w, "what others wait for came")
		w.manager.Retry(func(p *v1.Pod) bool { return p.UID == "1" })
		expect(t, w, "at once when told", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		if got := w.last().Message; got != "" {
			t.Errorf("the status still says %q", got)
		}
	})
}

func TestRejectedPodFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("allocate", &pod.RejectError{Reason: "UnexpectedAdmissionError", Message: "never"})
		w.manager.Update(somePod("1"))
		expect(t, w, "the only try", "allocate", "unmount", "release")
		if got := w.last(); got.Phase != v1.PodFailed || got.Reason != "UnexpectedAdmissionError" {
			t.Errorf("status %+v", got)
		}
	})
}

func TestHandlerOfTheSandbox(t *testing.T) {
	inWorld(t, func(w *world) {
		class := "vm"
		w.failing("handler", &pod.WaitError{Reason: "FailedCreatePodSandBox", For: "its class"})
		w.manager.Update(somePod("1", func(s *v1.PodSpec) { s.RuntimeClassName = &class }))
		expect(t, w, "the class is not there", "allocate", "cgroup", "mount")
		w.failing("handler", nil)
		w.manager.Retry(func(*v1.Pod) bool { return true })
		expect(t, w, "the class came", "sandbox vm", "create a", "start")
	})
}

func TestNoBackOffInAnotherSandbox(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("create", errDown)
		w.manager.Update(somePod("1"))
		expect(t, w, "it cannot be created", "allocate", "cgroup", "mount", "sandbox", "create a")
		w.failing("create", nil)
		w.mu.Lock()
		w.pods["1"].Sandboxes[0].Ready = false
		w.mu.Unlock()
		w.manager.Wake("1")
		expect(t, w, "the sandbox has ended", "stopsandbox", "sandbox", "stopsandbox", "removesandbox", "create a", "start")
	})
}

func TestContainersFailAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("pull", errDown)
		w.manager.Update(somePod("1", func(s *v1.PodSpec) {
			s.Containers = append([]v1.Container{{Name: "x", Image: "absent:1"}, {Name: "y", Image: "No Name"}}, s.Containers...)
		}))
		expect(t, w, "the good container starts", "allocate", "cgroup", "mount", "sandbox", "pull absent:1", "create a", "start")
		w.failing("pull", nil)
		time.Sleep(11 * time.Second)
		expect(t, w, "the pull is tried again", "pull absent:1", "create x", "start")
	})
}

func TestFinishedPodGivesBackWhatItHolds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Update(somePod("1", func(s *v1.PodSpec) { s.RestartPolicy = v1.RestartPolicyNever }))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.exit("c2", 0)
		expect(t, w, "finish", "stopsandbox", "unmount", "release")
		if got := w.last().Phase; got != v1.PodSucceeded {
			t.Errorf("phase %s", got)
		}
		w.manager.Wake("1")
		expect(t, w, "finished for good")
	})
}

func TestGraceShrinks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stubborn = true
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		begun := time.Now()
		w.manager.Update(ending(p, 30))
		expect(t, w, "end", "stop 30")
		time.Sleep(time.Second)
		w.manager.Update(ending(p, 5))
		expect(t, w, "less grace", "stop 5")
		w.manager.Update(ending(p, 60))
		expect(t, w, "never more grace")
		time.Sleep(5 * time.Second)
		expect(t, w, "over", takenAway()...)
		if took := time.Since(begun); took > 7*time.Second {
			t.Errorf("ended after %s", took)
		}
	})
}

func TestPreStopRunsBeforeTheSignal(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1", func(s *v1.PodSpec) {
			s.Containers[0].Lifecycle = &v1.Lifecycle{
				PreStop:   &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 10}},
				PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}},
			}
		})
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start", "exec hello")
		w.manager.Update(ending(p, 30))
		expect(t, w, "while the hook sleeps")
		time.Sleep(10 * time.Second)
		expect(t, w, "with what is left", append([]string{"stop 20"}, takenAway()...)...)
	})
}

func TestFailedPostStartKillsTheContainer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("exec", errDown)
		w.manager.Update(somePod("1", func(s *v1.PodSpec) {
			s.RestartPolicy = v1.RestartPolicyNever
			s.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}}}
		}))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start", "exec hello", "stop 2", "stopsandbox", "unmount", "release")
	})
}

func TestTroubleAtTheEndIsTriedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.failing("unmount", errDown)
		w.manager.Update(ending(p, 30))
		expect(t, w, "end", "stop 30", "stopsandbox", "removesandbox", "unmount", "unmount") // woken once by the container's end
		if held := w.manager.Held(); len(held) != 1 || !strings.Contains(held[0], "taking the Pod away: ") || !strings.HasSuffix(held[0], errDown.Error()) {
			t.Errorf("held: %q", held)
		}
		w.failing("unmount", nil)
		time.Sleep(time.Second)
		expect(t, w, "again", takenAway()[2:]...)
		if held := w.manager.Held(); len(held) != 0 {
			t.Errorf("held at the end: %q", held)
		}
	})
}

func TestEndingBeforeTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Update(ending(somePod("1"), 30))
		expect(t, w, "nothing is started", takenAway()[2:]...)
		if got := w.last().Phase; got != v1.PodFailed {
			t.Errorf("phase %s", got)
		}
	})
}

func TestPodsOfOneNameFollowEachOther(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stubborn = true
		first := somePod("1")
		w.manager.Update(first)
		w.manager.Update(somePod("2"))
		w.manager.Update(somePod("3"))
		expect(t, w, "only the first", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Gone(somePod("2"))
		w.manager.Update(ending(first, 10))
		time.Sleep(10 * time.Second)
		expect(t, w, "then the one that is left", slices.Concat([]string{"stop 10"}, takenAway(), []string{"allocate", "cgroup", "mount", "sandbox", "create a", "start"})...)
	})
}

func TestRuntimeThatIsAwayIsWaitedFor(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("observe", errDown)
		w.manager.Update(somePod("1"))
		expect(t, w, "nothing is done blindly")
		w.failing("observe", nil)
		time.Sleep(time.Second)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
	})
}

// TestFailedStartIsUndone holds a start that failed half-way on a runtime that
// keeps no record of the failure.
func TestFailedStartIsUndone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("start", errDown)
		w.manager.Update(somePod("1"))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start", "remove")
		if got := w.last().Message; got != "RunContainerError" {
			t.Errorf("the status says %q", got)
		}
		w.failing("start", nil)
		time.Sleep(11 * time.Second)
		expect(t, w, "again", "create a", "start")
	})
}

func TestVolumesFollowTheirObjects(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Update(somePod("1", func(s *v1.PodSpec) {
			s.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}}}
		}))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Retry(func(*v1.Pod) bool { return true })
		expect(t, w, "an object changed", "mount")
		w.manager.Wake("1")
		expect(t, w, "nothing changed")
	})
}

// TestFailedStartObeysTheRestartPolicy holds a command that cannot be run: a Pod
// that shall not restart has failed, as one whose command ended has.
func TestFailedStartObeysTheRestartPolicy(t *testing.T) {
	inWorld(t, func(w *world) {
		w.recording = true
		w.failing("start", errDown)
		w.manager.Update(somePod("1", func(s *v1.PodSpec) { s.RestartPolicy = v1.RestartPolicyNever }))
		expect(t, w, "the only try", "allocate", "cgroup", "mount", "sandbox", "create a", "start", "stopsandbox", "unmount", "release")
		if got := w.last(); got.Phase != v1.PodFailed {
			t.Errorf("status %+v", got)
		}
	})
}

// TestRecordedVerdictsCountAtOnce holds the first look of a process at a Pod that
// an earlier one started: no status may say that it knows of no verdict.
func TestRecordedVerdictsCountAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.pods["1"] = &pod.Observation{
			Sandboxes:  []pod.Sandbox{{ID: "s", Ready: true}},
			Containers: []pod.Container{{ID: "c", Name: "a", SandboxID: "s", State: pod.Running, Hash: pod.Hash(&v1.Container{Name: "a", Image: "image:1"})}},
		}
		w.probed = map[types.UID]map[string]pod.Probed{"1": {"c": {Readiness: pod.Success}}}
		w.manager.Update(somePod("1"))
		expect(t, w, "nothing is done")
		for _, s := range w.statuses {
			if s.Message != "readiness 1" {
				t.Errorf("a status said %q", s.Message)
			}
		}
	})
}

func TestPostStartThatTheEndCutsShortIsNoFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1", func(s *v1.PodSpec) {
			s.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sleep"}}}}
		})
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start", "exec sleep")
		w.manager.Update(ending(p, 30))
		expect(t, w, "the whole grace", append([]string{"stop 30"}, takenAway()...)...)
	})
}

func TestShrinkingGraceKeepsAHookThatHasTime(t *testing.T) {
	inWorld(t, func(w *world) {
		p := somePod("1", func(s *v1.PodSpec) {
			s.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 10}}}
		})
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Update(ending(p, 60))
		time.Sleep(5 * time.Second)
		w.manager.Update(ending(p, 25))
		time.Sleep(4 * time.Second)
		expect(t, w, "the hook goes on")
		time.Sleep(time.Second)
		expect(t, w, "then the signal", append([]string{"stop 20"}, takenAway()...)...)
	})
}

func TestNoGraceEndsAHookAndAStopAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stubborn = true
		p := somePod("1", func(s *v1.PodSpec) {
			s.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 50}}}
			s.Containers = append(s.Containers, v1.Container{Name: "b", Image: "image:1"})
		})
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start", "create b", "start")
		w.manager.Update(ending(p, 60))
		expect(t, w, "the one without a hook", "stop 60")
		w.manager.Update(ending(p, 0))
		expect(t, w, "both, now", append([]string{"stop 0", "stop 0"}, takenAway()...)...)
	})
}

func TestRuntimeThatSaysOKAndDoesNothingIsNotFlooded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deaf = true
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Update(ending(p, 30))
		time.Sleep(time.Minute)
		synctest.Wait()
		if stops := len(w.did()); stops < 5 || stops > 20 {
			t.Errorf("the container was stopped %d times in a minute", stops)
		}
		w.mu.Lock()
		if !slices.Contains(w.steps, "wait Trouble") {
			t.Errorf("nobody was told: %v", w.steps)
		}
		w.deaf = false
		w.mu.Unlock()
		time.Sleep(11 * time.Second)
		expect(t, w, "then it ends", append([]string{"stop 2"}, takenAway()...)...)
	})
}

func TestOrphanEndsBesideThePodOfItsName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Update(somePod("1"))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.pods["0"] = &pod.Observation{Sandboxes: []pod.Sandbox{{ID: "old", Ready: true}}}
		w.manager.Orphan(call.Pod{Namespace: "default", Name: "p", UID: "0"})
		expect(t, w, "the orphan ends", takenAway()...)
		w.manager.Update(somePod("2"))
		expect(t, w, "the next of the name waits still")
	})
}

func TestVolumesThatWantItAreMountedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.refresh = time.Minute
		w.manager.Update(somePod("1", func(s *v1.PodSpec) {
			s.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{}}}}
		}))
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		time.Sleep(2*time.Minute + time.Second)
		expect(t, w, "two minutes later", "mount", "mount")
	})
}

// TestSandboxThatComesWhileThePodIsTakenAway has a runtime that tells of it when
// its worker has looked for the last time.
func TestSandboxThatComesWhileThePodIsTakenAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.onRelease = func() {
			w.onRelease = nil
			w.mu.Lock()
			w.pods["1"] = &pod.Observation{Sandboxes: []pod.Sandbox{{ID: "late", Ready: true}}}
			w.mu.Unlock()
			w.manager.Wake("1")
		}
		w.manager.Update(ending(somePod("1"), 30))
		expect(t, w, "all is taken away", append(takenAway()[2:], "stopsandbox", "removesandbox")...)
	})
}

// TestStatusWhoseRecordingFailedMayBeRecorded has a store that records and says that
// it did not: the phase must not be taken back.
func TestStatusWhoseRecordingFailedMayBeRecorded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("allocate", &pod.RejectError{Reason: "UnexpectedAdmissionError", Message: "never"})
		w.failing("status", errDown)
		w.manager.Update(somePod("1"))
		time.Sleep(time.Second)
		w.failing("status", nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		failed := false
		for _, s := range w.statuses {
			if failed = failed || s.Phase == v1.PodFailed; failed && s.Phase != v1.PodFailed {
				t.Errorf("a Pod that failed is %s", s.Phase)
			}
		}
		if !failed {
			t.Error("the phase was never recorded")
		}
	})
}

// TestNoGraceCountsAlsoWhenTheGraceIsOver has a Pod whose containers outlive their
// grace in a runtime that does nothing, and a user who loses patience.
func TestNoGraceCountsAlsoWhenTheGraceIsOver(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deaf = true
		p := somePod("1")
		w.manager.Update(p)
		expect(t, w, "start", "allocate", "cgroup", "mount", "sandbox", "create a", "start")
		w.manager.Update(ending(p, 1))
		time.Sleep(time.Minute)
		w.did()
		w.manager.Update(ending(p, 0))
		synctest.Wait()
		if did := w.did(); len(did) == 0 || did[0] != "stop 0" {
			t.Errorf("did %v", did)
		}
	})
}

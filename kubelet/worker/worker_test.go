package worker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

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
		w.manager.Retry()
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
		w.failing("unmount", nil)
		time.Sleep(time.Second)
		expect(t, w, "again", takenAway()[2:]...)
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

// TestFailedStartIsUndone holds a start that failed half-way.
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
		w.manager.Retry()
		expect(t, w, "an object changed", "mount")
		w.manager.Wake("1")
		expect(t, w, "nothing changed")
	})
}

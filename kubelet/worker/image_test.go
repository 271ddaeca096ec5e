package worker_test

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// pulling is a Pod with an image to pull, and pull Secrets.
func pulling(s *v1.PodSpec) {
	s.Containers[0].Image = "absent:1"
	s.ImagePullSecrets = []v1.LocalObjectReference{{Name: "login"}}
}

func TestPullWithCredentials(t *testing.T) {
	before := []string{"allocate", "cgroup", "mount", "sandbox"}
	after := []string{"create a", "start"}
	for what, c := range map[string]struct {
		ring    []string
		refused []string
		want    []string
		fails   bool
	}{
		"none":               {nil, nil, []string{"pull absent:1"}, false},
		"one":                {[]string{"me"}, nil, []string{"pull absent:1 as me"}, false},
		"the first will":     {[]string{"me", "you"}, []string{"you"}, []string{"pull absent:1 as me"}, false},
		"the second will":    {[]string{"me", "you"}, []string{"me"}, []string{"pull absent:1 as me", "pull absent:1 as you"}, false},
		"neither will":       {[]string{"me", "you"}, []string{"me", "you"}, []string{"pull absent:1 as me", "pull absent:1 as you", "pull absent:1"}, true},
		"the runtime's will": {[]string{"me"}, []string{"me"}, []string{"pull absent:1 as me", "pull absent:1"}, false},
	} {
		t.Run(what, func(t *testing.T) {
			inWorld(t, func(w *world) {
				for _, name := range c.ring {
					w.ring = append(w.ring, &runtimeapi.AuthConfig{Username: name, Password: "secret"})
				}
				for _, name := range c.refused {
					w.failing("pull as "+name, fault.PermissionDenied.Errorf("%s is denied", name))
				}
				if c.fails {
					w.failing("pull as nobody", fault.PermissionDenied.Errorf("somebody is denied"))
				}
				w.manager.Update(somePod("1", pulling))
				want := slices.Concat(before, c.want)
				if !c.fails {
					want = append(want, after...)
				}
				expect(t, w, "the pull", want...)
				pulling := `Normal Pulling spec.containers{a}: Pulling image "absent:1"`
				if c.fails {
					hear(t, w, "each error", pulling, "Warning Failed spec.containers{a}: me is denied\nyou is denied\nsomebody is denied")
				} else {
					hear(t, w, "success", pulling, `Normal Pulled spec.containers{a}: Pulled image "absent:1" in 0s`, created, started)
				}
			})
		})
	}
}

// TestPullWithoutItsSecret: a Secret that is not there is told of, and tried without.
// When it comes a pull that has failed is tried again at once.
func TestPullWithoutItsSecret(t *testing.T) {
	inWorld(t, func(w *world) {
		w.lacking = fault.NotFound.Errorf("Secret %q is not there", "login")
		w.failing("pull", fault.Unauthenticated.Errorf("who are you?"))
		w.manager.Update(somePod("1", pulling))
		expect(t, w, "without it", "allocate", "cgroup", "mount", "sandbox", "pull absent:1")
		tried := `Normal Pulling spec.containers{a}: Pulling image "absent:1"`
		hear(t, w, "both are told", tried,
			`Warning FailedToRetrieveImagePullSecret: Not all imagePullSecrets can be used, and images may not be pulled without them: Secret "login" is not there`,
			"Warning Failed spec.containers{a}: who are you?")
		time.Sleep(time.Second)
		expect(t, w, "the kubelet's back-off")
		w.mu.Lock()
		w.lacking, w.ring = nil, []*runtimeapi.AuthConfig{{Username: "me", Password: "secret"}}
		w.mu.Unlock()
		w.failing("pull", nil)
		w.manager.Retry(func(p *v1.Pod) bool { return p.UID == "1" })
		expect(t, w, "not for what else has come")
		w.manager.RetryPulls(func(p *v1.Pod) bool { return p.UID == "1" })
		expect(t, w, "with it", "pull absent:1 as me", "create a", "start")
		hear(t, w, "success", tried, `Normal Pulled spec.containers{a}: Pulled image "absent:1" in 0s`, created, started)
	})
}

// TestPullWithoutSecretsIsNotHurried: what comes for others does not have a
// registry asked before its time.
func TestPullWithoutSecretsIsNotHurried(t *testing.T) {
	inWorld(t, func(w *world) {
		w.failing("pull", errDown)
		w.manager.Update(somePod("1", func(s *v1.PodSpec) { s.Containers[0].Image = "absent:1" }))
		expect(t, w, "the first try", "allocate", "cgroup", "mount", "sandbox", "pull absent:1")
		w.manager.Retry(func(*v1.Pod) bool { return true })
		expect(t, w, "not at once")
	})
}

// TestPullEndsWithItsPod: no further credentials are tried for a Pod that shall end.
func TestPullEndsWithItsPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ring = []*runtimeapi.AuthConfig{{Username: "me"}, {Username: "you"}}
		p := somePod("1", pulling)
		w.onPull = func() { w.manager.Update(ending(p, 30)) }
		w.failing("pull", errDown)
		w.manager.Update(p)
		expect(t, w, "one pull", append([]string{"allocate", "cgroup", "mount", "sandbox", "pull absent:1 as me"}, takenAway()...)...)
	})
}

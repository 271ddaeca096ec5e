package simulation_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

// mutantLives is within how many lives a mutant must be found out.
const mutantLives = 500

// mutant is a kubelet with one fault, and the rules of which one must find it.
type mutant struct {
	name   string
	rules  []string
	mutate func(*worker.Config)
}

// plans returns a mutant whose plan is changed.
func plans(name, rule string, change func(*pod.View, *pod.Plan)) mutant {
	return mutant{name, strings.Split(rule, "|"), func(c *worker.Config) {
		c.Decide = func(v *pod.View) pod.Plan {
			p := pod.Decide(v)
			change(v, &p)
			return p
		}
	}}
}

// views returns a mutant that decides about something that is not so.
func views(name, rule string, change func(*pod.View)) mutant {
	return mutant{name, strings.Split(rule, "|"), func(c *worker.Config) {
		c.Decide = func(v *pod.View) pod.Plan {
			wrong := *v
			spec, seen := *v.Pod, *v.Seen
			seen.Containers, seen.Sandboxes = slices.Clone(seen.Containers), slices.Clone(seen.Sandboxes)
			wrong.Pod, wrong.Seen = &spec, &seen
			change(&wrong)
			return pod.Decide(&wrong)
		}
	}}
}

// clients returns a mutant with a wrong way to call the runtime.
func clients(name, rule string, wrap func(runtimeapi.RuntimeServiceClient) runtimeapi.RuntimeServiceClient) mutant {
	return mutant{name, strings.Split(rule, "|"), func(c *worker.Config) { c.Runtime = wrap(c.Runtime) }}
}

func mutants() []mutant {
	return []mutant{
		plans("starts twice", "one instance", func(_ *pod.View, p *pod.Plan) {
			for _, s := range slices.Clone(p.Start) {
				s.Attempt++
				p.Start = append(p.Start, s)
			}
		}),
		{"acts on an old observation", []string{"one instance", "one sandbox"}, stale},
		plans("kills without the grace", "grace", func(_ *pod.View, p *pod.Plan) {
			for i := range p.Kill {
				p.Kill[i].Grace = 0
			}
		}),
		clients("lets a grace grow", "grace", func(r runtimeapi.RuntimeServiceClient) runtimeapi.RuntimeServiceClient { return patient{r} }),
		views("restarts a finished Pod", "finished|phase", func(v *pod.View) {
			was := *v.Was
			was.Phase = v1.PodRunning
			v.Was = &was
			v.Pod.Spec.RestartPolicy = v1.RestartPolicyAlways
		}),
		views("ignores the restart policy", "restart policy|phase|finished", func(v *pod.View) { v.Pod.Spec.RestartPolicy = v1.RestartPolicyAlways }),
		views("runs init containers in the wrong order", "order", func(v *pod.View) {
			v.Pod.Spec.InitContainers = slices.Clone(v.Pod.Spec.InitContainers)
			slices.Reverse(v.Pod.Spec.InitContainers)
		}),
		views("does not wait for init containers", "order", func(v *pod.View) { v.Pod.Spec.InitContainers = nil }),
		views("runs init containers again", "order", func(v *pod.View) {
			if v.Seen.Latest("app0") != nil { // the records of what has ended are taken for worthless
				v.Seen.Containers = slices.DeleteFunc(v.Seen.Containers, func(c pod.Container) bool { return c.State == pod.Exited })
			}
		}),
		views("does not back off", "back-off|bounded", func(v *pod.View) {
			for i := range v.Seen.Containers {
				v.Seen.Containers[i].Delay = 0
			}
		}),
		views("stops sidecars with the rest", "stop order", func(v *pod.View) {
			if v.Ending != nil {
				v.Pod.Spec.InitContainers = nil // sidecars are containers like others then
			}
		}),
		plans("never looks again by itself", "converges", func(_ *pod.View, p *pod.Plan) { p.Again = time.Time{} }),
		plans("kills for no reason", "no reason", func(v *pod.View, p *pod.Plan) {
			if active := v.Seen.Active(); v.Ending == nil && len(active) > 0 && p.Empty() {
				p.Kill = []pod.Kill{{ID: active[0].ID, Name: active[0].Name, Grace: 2 * time.Second}}
			}
		}),
		plans("takes away what still runs", "resources|grace|nothing left", func(v *pod.View, p *pod.Plan) {
			p.Ended = p.Ended || v.Ending != nil && v.Now.After(v.Ending.Deadline)
		}),
		{"takes a phase back", []string{"phase"}, func(c *worker.Config) {
			compute := c.Status
			c.Status = func(v *pod.View) v1.PodStatus {
				s := compute(v)
				if v.Finished() && v.Ending != nil {
					s.Phase = v1.PodFailed
				}
				return s
			}
		}},
		{"forgets the restart count", []string{"restart count"}, func(c *worker.Config) {
			compute := c.Status
			c.Status = func(v *pod.View) v1.PodStatus {
				s := compute(v)
				for i := range s.ContainerStatuses {
					if s.ContainerStatuses[i].State.Terminated != nil {
						s.ContainerStatuses[i].RestartCount = 0
					}
				}
				return s
			}
		}},
		{"leaves volumes behind", []string{"nothing left"}, func(c *worker.Config) { c.Volumes = keeper{c.Volumes} }},
	}
}

// stale gives the worker the observation before the last, as a cache would.
func stale(c *worker.Config) {
	observe := c.Observe
	last := map[types.UID]*pod.Observation{}
	c.Observe = func(ctx context.Context, uid types.UID) (*pod.Observation, error) {
		seen, err := observe(ctx, uid)
		if err != nil {
			return nil, err
		}
		old := last[uid]
		last[uid] = &pod.Observation{Sandboxes: slices.Clone(seen.Sandboxes), Containers: slices.Clone(seen.Containers)}
		if old != nil {
			return old, nil
		}
		return seen, nil
	}
}

// patient gives every container twenty seconds more.
type patient struct {
	runtimeapi.RuntimeServiceClient
}

func (p patient) StopContainer(ctx context.Context, in *runtimeapi.StopContainerRequest, o ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	in.Timeout += 20
	return p.RuntimeServiceClient.StopContainer(ctx, in, o...)
}

// keeper unmounts nothing.
type keeper struct{ worker.Volumes }

func (keeper) Unmount(context.Context, types.UID) error { return nil }

// TestMutantsAreFoundOut shows that each rule can be broken, and how soon a fault of
// its kind is seen.
func TestMutantsAreFoundOut(t *testing.T) {
	for _, m := range mutants() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(mutantLives) {
				l := live(t, seed, m.mutate)
				for _, broken := range l.broken {
					if rule, _, _ := strings.Cut(broken, ":"); slices.Contains(m.rules, rule) {
						t.Logf("life %d: %s", seed, broken)
						return
					}
				}
			}
			t.Errorf("not found out by %q in %d lives", m.rules, mutantLives)
		})
	}
}

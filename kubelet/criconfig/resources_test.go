package criconfig_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/criconfig"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func memory(request, limit string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	if request != "" {
		r.Requests[v1.ResourceMemory] = resource.MustParse(request)
	}
	if limit != "" {
		r.Limits[v1.ResourceMemory] = resource.MustParse(limit)
	}
	return r
}

// TestOOMScore: on a node with 4 GiB of memory.
func TestOOMScore(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	for name, c := range map[string]struct {
		change func(*v1.Pod, *v1.Container)
		want   int64
	}{
		"BestEffort":              {func(*v1.Pod, *v1.Container) {}, 1000},
		"a quarter of the memory": {func(_ *v1.Pod, c *v1.Container) { c.Resources = memory("1Gi", "") }, 750},
		"a limit is a request":    {func(_ *v1.Pod, c *v1.Container) { c.Resources = memory("", "1Gi") }, 750},
		"almost nothing":          {func(_ *v1.Pod, c *v1.Container) { c.Resources = memory("1Ki", "") }, 999},
		"more than there is":      {func(_ *v1.Pod, c *v1.Container) { c.Resources = memory("8Gi", "") }, 3},
		"Guaranteed": {func(_ *v1.Pod, c *v1.Container) {
			c.Resources = memory("", "1Gi")
			c.Resources.Limits[v1.ResourceCPU] = resource.MustParse("1")
		}, -997},
		"its part of what the Pod asks for": {func(p *v1.Pod, c *v1.Container) {
			c.Resources = memory("1Gi", "")
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "d"})
			own := memory("3Gi", "")
			p.Spec.Resources = &own
		}, 500},
		"a sidecar is spared as what it serves": {func(p *v1.Pod, c *v1.Container) {
			app := v1.Container{Name: "app", Resources: memory("2Gi", "")}
			c.RestartPolicy, c.Resources = &always, memory("1Gi", "")
			p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, []v1.Container{app}
		}, 500},
	} {
		b, _ := builder(t)
		config, err := b.Container(t.Context(), request(c.change))
		if err != nil {
			t.Fatal(err)
		}
		if got := config.Linux.Resources.OomScoreAdj; got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestGroupOOMKill(t *testing.T) {
	for group, want := range map[bool]map[string]string{true: {"memory.oom.group": "1"}, false: nil} {
		b := criconfig.New(criconfig.Node{PodsDir: t.TempDir(), LogDir: t.TempDir(), GroupOOMKill: group}, data{})
		r := request(func(*v1.Pod, *v1.Container) {})
		config, err := b.Container(t.Context(), &pod.Request{Pod: r.Pod, Container: r.Container, ImageID: r.ImageID})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, config.Linux.Resources.Unified); diff != "" {
			t.Errorf("group %v: %s", group, diff)
		}
	}
}

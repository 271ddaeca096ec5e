package pod_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// asks returns a container with a request and a limit of CPU, in quantities
// ("" is none).
func asks(request, limit string) v1.Container {
	c := v1.Container{Name: "c"}
	if request != "" {
		c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(request)}
	}
	if limit != "" {
		c.Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse(limit)}
	}
	return c
}

func always(c v1.Container) v1.Container {
	policy := v1.ContainerRestartPolicyAlways
	c.RestartPolicy = &policy
	return c
}

func cpu(quantity string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(quantity)}
}

func TestResources(t *testing.T) {
	apps := []v1.Container{asks("100m", "200m"), asks("200m", "300m")}
	for name, c := range map[string]struct {
		spec             v1.PodSpec
		requests, limits string
		bounded          bool
	}{
		"the sum of the containers": {v1.PodSpec{Containers: apps}, "300m", "500m", true},
		"a limit is a request":      {v1.PodSpec{Containers: []v1.Container{asks("", "200m")}}, "200m", "200m", true},
		"no limit is no bound":      {v1.PodSpec{Containers: []v1.Container{asks("100m", ""), asks("100m", "200m")}}, "200m", "200m", false},
		"nothing":                   {v1.PodSpec{Containers: []v1.Container{asks("", "")}}, "0", "0", false},
		"a small init container is gone when they run": {
			v1.PodSpec{InitContainers: []v1.Container{asks("250m", "400m")}, Containers: apps}, "300m", "500m", true,
		},
		"a large one is the peak": {v1.PodSpec{InitContainers: []v1.Container{asks("1", "2"), asks("2", "2")}, Containers: apps}, "2", "2", true},
		"an init container without a limit is no bound": {
			v1.PodSpec{InitContainers: []v1.Container{asks("250m", "")}, Containers: apps}, "300m", "500m", false,
		},
		"a sidecar runs beside all that follow": {
			v1.PodSpec{InitContainers: []v1.Container{asks("900m", "900m"), always(asks("500m", "500m")), asks("450m", "450m")}, Containers: apps}, "950m", "1", true,
		},
		"an overhead is on top, and no limit where there is none": {
			v1.PodSpec{Containers: []v1.Container{asks("100m", "")}, Overhead: cpu("50m")}, "150m", "0", false,
		},
		"and of a limit, too": {v1.PodSpec{Containers: apps, Overhead: cpu("50m")}, "350m", "550m", true},
		"the Pod's own": {
			v1.PodSpec{Containers: apps, Overhead: cpu("50m"), Resources: &v1.ResourceRequirements{Requests: cpu("1"), Limits: cpu("2")}}, "1050m", "2050m", true,
		},
		"its limit bounds containers without": {
			v1.PodSpec{Containers: []v1.Container{asks("100m", "")}, Resources: &v1.ResourceRequirements{Limits: cpu("2")}}, "100m", "2", true,
		},
		"its limit is its request where nothing asks": {
			v1.PodSpec{Containers: []v1.Container{asks("", "")}, Resources: &v1.ResourceRequirements{Limits: cpu("2")}}, "2", "2", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1.Pod{Spec: c.spec}
			before := p.DeepCopy()
			want := make([]int64, 2)
			for i, q := range []string{c.requests, c.limits} {
				parsed := resource.MustParse(q)
				want[i] = parsed.MilliValue()
			}
			if got := []int64{pod.Requests(p).MilliCPU, pod.Limits(p).MilliCPU}; !cmp.Equal(got, want) {
				t.Errorf("requests and limits are %v, want %v", got, want)
			}
			if got := pod.Bounded(p, v1.ResourceCPU); got != c.bounded {
				t.Errorf("bounded: %v", got)
			}
			if diff := cmp.Diff(before, p); diff != "" {
				t.Errorf("the Pod was changed:\n%s", diff)
			}
		})
	}
}

func TestQOS(t *testing.T) {
	both := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	full := v1.ResourceRequirements{Limits: both("1", "1Gi")}
	same := v1.ResourceRequirements{Limits: both("1", "1Gi"), Requests: both("1", "1Gi")}
	less := v1.ResourceRequirements{Limits: both("1", "1Gi"), Requests: both("1", "512Mi")}
	for name, c := range map[string]struct {
		own, container *v1.ResourceRequirements
		want           v1.PodQOSClass
	}{
		"nothing":                   {nil, &v1.ResourceRequirements{}, v1.PodQOSBestEffort},
		"limits":                    {nil, &full, v1.PodQOSGuaranteed},
		"limits as requests":        {nil, &same, v1.PodQOSGuaranteed},
		"a lower request":           {nil, &less, v1.PodQOSBurstable},
		"the Pod's own alone":       {&full, &v1.ResourceRequirements{}, v1.PodQOSGuaranteed},
		"and not its containers'":   {&less, &same, v1.PodQOSBurstable},
		"which ask for less":        {&full, &less, v1.PodQOSBurstable},
		"of one resource":           {&v1.ResourceRequirements{Limits: cpu("1")}, &v1.ResourceRequirements{}, v1.PodQOSBurstable},
		"an empty one of the Pod's": {&v1.ResourceRequirements{}, &full, v1.PodQOSGuaranteed},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{Resources: c.own, Containers: []v1.Container{{Name: "c", Resources: *c.container}}, Overhead: cpu("1")}}
		if got := pod.QOS(p); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

package qos

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

func list(cpu, memory string) v1.ResourceList {
	l := v1.ResourceList{}
	if cpu != "" {
		l[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func podOf(requests, limits v1.ResourceList) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{
		Name: "c", Resources: v1.ResourceRequirements{Requests: requests, Limits: limits},
	}}}}
}

func TestPodLimits(t *testing.T) {
	own := podOf(nil, nil)
	own.Spec.Resources = &v1.ResourceRequirements{Limits: list("500m", "64Mi")}
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want cgroup.Limits
	}{
		"Guaranteed":             {podOf(nil, list("2", "1Gi")), cgroup.Limits{CPUShares: 2048, CPUQuota: 200_000, Memory: 1 << 30}},
		"BestEffort":             {podOf(nil, nil), cgroup.Limits{CPUShares: 2, CPUQuota: -1, Memory: -1}},
		"Burstable":              {podOf(list("250m", "1Gi"), nil), cgroup.Limits{CPUShares: 256, CPUQuota: -1, Memory: -1}},
		"bounded in memory only": {podOf(list("250m", ""), list("", "1Gi")), cgroup.Limits{CPUShares: 256, CPUQuota: -1, Memory: 1 << 30}},
		"less than the least":    {podOf(list("1m", ""), list("1m", "")), cgroup.Limits{CPUShares: 2, CPUQuota: 1000, Memory: -1}},
		"more than the most":     {podOf(list("1k", ""), nil), cgroup.Limits{CPUShares: 1 << 18, CPUQuota: -1, Memory: -1}},
		"the Pod's own":          {own, cgroup.Limits{CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20}},
	} {
		c.want.CPUPeriod, c.want.PIDs, c.want.KeepAlive = 100_000, 9, true
		if diff := cmp.Diff(c.want, PodLimits(c.pod, 9)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestClassShares(t *testing.T) {
	over := podOf(list("4", ""), nil)
	over.Status.Phase = v1.PodSucceeded
	pods := []*v1.Pod{
		podOf(nil, list("8", "1Gi")), podOf(nil, nil), podOf(list("250m", ""), nil), podOf(list("", "1Gi"), nil), podOf(list("750m", ""), nil), over,
	}
	for class, want := range map[v1.PodQOSClass]uint64{v1.PodQOSBurstable: 1024, v1.PodQOSBestEffort: 2} {
		if got := classShares(class, pods); got != want {
			t.Errorf("%s has %d shares, want %d", class, got, want)
		}
	}
	if got := classShares(v1.PodQOSBurstable, nil); got != 2 {
		t.Errorf("without Pods there are %d shares, want the least", got)
	}
}

func TestNames(t *testing.T) {
	for class, want := range map[v1.PodQOSClass][2]string{
		v1.PodQOSGuaranteed: {"/kit-1/kubepods/podaa-bb", "/kit_1.slice/kit_1-kubepods.slice/kit_1-kubepods-podaa_bb.slice"},
		v1.PodQOSBurstable: {
			"/kit-1/kubepods/burstable/podaa-bb",
			"/kit_1.slice/kit_1-kubepods.slice/kit_1-kubepods-burstable.slice/kit_1-kubepods-burstable-podaa_bb.slice",
		},
		v1.PodQOSBestEffort: {
			"/kit-1/kubepods/besteffort/podaa-bb",
			"/kit_1.slice/kit_1-kubepods.slice/kit_1-kubepods-besteffort.slice/kit_1-kubepods-besteffort-podaa_bb.slice",
		},
	} {
		p := classPath("/kit-1", class)
		if got := [2]string{podPath(p, "aa-bb"), podPath(cgroup.Slice(p), "aa-bb")}; got != want {
			t.Errorf("%s: %q, want %q", class, got, want)
		}
	}
}

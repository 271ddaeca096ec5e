package device

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const gpu = "example.com/gpu"

func asks(container string, count int, lends bool) need {
	return need{slot{container, gpu}, count, lends}
}

func TestChoose(t *testing.T) {
	cases := []struct {
		name  string
		needs []need
		held  map[slot][]string
		free  []string
		want  map[slot][]string // nil: short
	}{
		{
			name:  "app containers do not share",
			needs: []need{asks("a", 1, false), asks("b", 2, false)},
			free:  []string{"0", "1", "2"},
			want:  map[slot][]string{{"a", gpu}: {"0"}, {"b", gpu}: {"1", "2"}},
		},
		{
			name:  "too few for the second is none for the first",
			needs: []need{asks("a", 1, false), asks("b", 2, false)},
			free:  []string{"0", "1"},
		},
		{
			name:  "an init container lends to the next and to the app",
			needs: []need{asks("i1", 2, true), asks("i2", 1, true), asks("a", 1, false), asks("b", 1, false)},
			free:  []string{"0", "1"},
			want:  map[slot][]string{{"i1", gpu}: {"0", "1"}, {"i2", gpu}: {"0"}, {"a", gpu}: {"1"}, {"b", gpu}: {"0"}},
		},
		{
			name:  "a sidecar borrows and does not lend",
			needs: []need{asks("i", 1, true), asks("sidecar", 1, false), asks("a", 1, false)},
			free:  []string{"0", "1"},
			want:  map[slot][]string{{"i", gpu}: {"0"}, {"sidecar", gpu}: {"0"}, {"a", gpu}: {"1"}},
		},
		{
			name:  "what is held is kept, and lent as before",
			needs: []need{asks("i", 1, true), asks("a", 1, false)},
			held:  map[slot][]string{{"i", gpu}: {"7"}},
			want:  map[slot][]string{{"a", gpu}: {"7"}},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, short := choose(c.needs, c.held, map[string][]string{gpu: c.free}, nil)
			if (short != nil) != (c.want == nil) {
				t.Fatalf("short %v, want chosen %v", short, c.want)
			}
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b slot) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPreference(t *testing.T) {
	cases := []struct {
		name   string
		answer []string
		want   []string
	}{
		{"good", []string{"2", "b"}, []string{"2", "b"}},
		{"none", nil, []string{"b", "0"}},
		{"short", []string{"b"}, []string{"b", "0"}},
		{"foreign", []string{"b", "x"}, []string{"b", "0"}},
		{"twice", []string{"b", "b"}, []string{"b", "0"}},
		{"without what is borrowed", []string{"1", "2"}, []string{"b", "0"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			prefer := func(string, []string, []string, int) []string { return c.answer }
			got := pick(asks("a", 2, false), []string{"b"}, []string{"0", "1", "2"}, prefer)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNeedsOf(t *testing.T) {
	limits := func(name, q string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Limits: v1.ResourceList{
			v1.ResourceName(name): quantity.MustParse(q), "cpu": quantity.MustParse("1"), "hugepages-2Mi": quantity.MustParse("2Mi"),
		}}
	}
	always := v1.ContainerRestartPolicyAlways
	p := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "i", Resources: limits(gpu, "2")}, {Name: "side", Resources: limits(gpu, "1"), RestartPolicy: &always}},
		Containers:     []v1.Container{{Name: "none", Resources: limits(gpu, "0")}, {Name: "a", Resources: limits(gpu, "1")}},
	}}
	got, err := needsOf(p)
	want := []need{asks("i", 2, true), asks("side", 1, false), asks("a", 1, false)}
	if err != nil || !cmp.Equal(want, got, cmp.AllowUnexported(need{}, slot{})) {
		t.Errorf("needs %v, %v, want %v", got, err, want)
	}
	p.Spec.Containers[1].Resources = limits(gpu, "500m")
	var rejected *pod.RejectError
	if _, err := needsOf(p); !errors.As(err, &rejected) {
		t.Errorf("half a device: %v, want a RejectError", err)
	}
}

package nodetest_test

import (
	"bytes"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/nodetest"
)

// memory gives container i of the Pod a memory request and limit.
func memory(i int, amount string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		q := v1.ResourceList{v1.ResourceMemory: resource.MustParse(amount)}
		p.Spec.Containers[i].Resources = v1.ResourceRequirements{Requests: q, Limits: q}
	}
}

// resized says that the Pod's container i runs with the amount.
func resized(i int, amount string) func(*v1.Pod) bool {
	want := resource.MustParse(amount)
	return func(p *v1.Pod) bool {
		if len(p.Status.ContainerStatuses) <= i {
			return false
		}
		s := &p.Status.ContainerStatuses[i]
		return s.State.Running != nil && s.Resources != nil && s.Resources.Limits.Memory().Cmp(want) == 0 && s.AllocatedResources.Memory().Cmp(want) == 0 && condition(p, v1.PodResizeInProgress) == ""
	}
}

// condition returns the reason of the condition, "" when it is not True.
func condition(p *v1.Pod, kind v1.PodConditionType) string {
	for _, c := range p.Status.Conditions {
		if c.Type == kind && c.Status == v1.ConditionTrue {
			return c.Reason + "."
		}
	}
	return ""
}

// limitOf reads a container's memory limit inside of it.
func limitOf(t *testing.T, n *nodetest.Node, container string) string {
	t.Helper()
	path := "/sys/fs/cgroup/memory.max"
	if cgroup.Version() == 1 {
		path = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
	}
	var out bytes.Buffer
	if err := execIn(t, n, "p", container, []string{"/podtool", "cat", path}, &out); err != nil {
		t.Fatalf("reading the limit: %v", err)
	}
	return strings.TrimSpace(out.String())
}

// TestResize changes the memory of a container while it runs, of another by a
// restart, and asks for more than the node has; none of it is lost or repeated
// by a restart of the node.
func TestResize(t *testing.T) {
	n := start(t, node.Config{})
	n.Apply(strings.Replace(podOf(`[sleep, forever]`, `    resources: {limits: {memory: 64Mi}}
  - name: restarts
    image: nodekit.dev/podtool:v1
    args: [sleep, forever]
    resources: {limits: {memory: 64Mi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
`), "restartPolicy: Never", "restartPolicy: Always", 1))
	before := n.WaitReady("p")
	change(t, n, "resize", memory(0, "96Mi"))
	after := n.WaitPod("p", resized(0, "96Mi"))
	if a, z := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != z.ContainerID {
		t.Errorf("the container was replaced: %+v", z)
	}
	if got := limitOf(t, n, "main"); got != "100663296" {
		t.Errorf("the kernel's limit is %s", got)
	}
	change(t, n, "resize", memory(1, "96Mi"))
	after = n.WaitPod("p", resized(1, "96Mi"))
	if s := after.Status.ContainerStatuses[1]; s.RestartCount != 1 {
		t.Errorf("the container was not restarted: %+v", s)
	}
	change(t, n, "resize", memory(0, "64Ti"))
	n.WaitPod("p", func(p *v1.Pod) bool { return condition(p, v1.PodResizePending) == "Infeasible." })
	n.Restart()
	again := n.WaitPod("p", func(p *v1.Pod) bool { return condition(p, v1.PodResizePending) == "Infeasible." && node.Ready(p) })
	for i, s := range again.Status.ContainerStatuses {
		if s.ContainerID != after.Status.ContainerStatuses[i].ContainerID || s.Resources.Limits.Memory().String() != "96Mi" {
			t.Errorf("after a restart of the node: %+v", s)
		}
	}
	change(t, n, "resize", memory(0, "80Mi"))
	n.WaitPod("p", func(p *v1.Pod) bool { return resized(0, "80Mi")(p) && condition(p, v1.PodResizePending) == "" })
	if got := limitOf(t, n, "main"); got != "83886080" {
		t.Errorf("the kernel's limit is %s", got)
	}
}

package nodetest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// TestOOMKilled: a container that takes more memory than its limit, its child
// that does, and one that takes more than its Pod's limit end as OOMKilled; the
// Pod's other container runs on.
func TestOOMKilled(t *testing.T) {
	n := start(t, node.Config{})
	for name, pod := range map[string]string{
		"container": podOf(`[eat, "128Mi"]`, "    resources: {limits: {memory: 32Mi}}\n"),
		"child":     podOf(`[child, eat, "128Mi"]`, "    resources: {limits: {memory: 32Mi}}\n"),
		"pod": podOf(`[eat, "128Mi"]`, `  - name: other
    image: nodekit.dev/podtool:v1
    args: [sleep, forever]
  resources: {limits: {memory: 64Mi}}
`),
	} {
		n.Apply(strings.Replace(pod, "name: p}", "name: "+name+"}", 1))
		p := n.WaitPod(name, func(p *v1.Pod) bool {
			return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Terminated != nil
		})
		if end := p.Status.ContainerStatuses[0].State.Terminated; end.Reason != "OOMKilled" || end.ExitCode != 137 {
			t.Errorf("%s: the container ended with %d (%s), want 137 (OOMKilled)", name, end.ExitCode, end.Reason)
		}
		if name == "pod" && p.Status.ContainerStatuses[1].State.Running == nil {
			t.Errorf("the Pod's other container is %+v", p.Status.ContainerStatuses[1].State)
		}
	}
}

// TestCgroupTree: a Pod's containers run where its class says, and what is left
// of the tree of a Pod that has no object goes when the node starts.
func TestCgroupTree(t *testing.T) {
	n := start(t, node.Config{PodPIDs: 100})
	n.Apply(podOf(`[do, "echo up", "sleep forever"]`, "    resources: {requests: {cpu: 100m}}\n"))
	p := n.WaitReady("p")
	_, rest, _ := strings.Cut(n.String(), "bridge nk-")
	id, _, _ := strings.Cut(rest, ",")
	tree := "/nodekit-" + id + "/kubepods"
	at := fmt.Sprintf("%s/burstable/pod%s", tree, p.UID)
	if pids, err := cgroup.Processes(at); err != nil || len(pids) != 1 {
		t.Errorf("processes in %s: %v, %v; want the container's", at, pids, err)
	}
	if got := content(t, at, "pids.max"); got != "100" {
		t.Errorf("the Pod may have %s tasks, want 100", got)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	orphan := tree + "/besteffort/pod00000000-0000-0000-0000-000000000001"
	if err := cgroup.Create(orphan); err != nil {
		t.Fatal(err)
	}
	n.Restart()
	n.WaitReady("p")
	for deadline := time.Now().Add(10 * time.Second); cgroup.Exists(orphan); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the cgroup of a Pod without an object is there after a start")
		}
	}
	if !cgroup.Exists(at) {
		t.Error("the cgroup of the Pod that runs is gone")
	}
}

// content returns the text of a cgroup's file, in whichever hierarchy it is.
func content(t *testing.T, at, file string) string {
	t.Helper()
	dirs, err := cgroup.Dirs(at)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if text, err := os.ReadFile(filepath.Join(d, file)); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	t.Fatalf("%s has no %s", at, file)
	return ""
}

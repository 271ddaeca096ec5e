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
	for _, c := range []struct {
		name, pod string
		eater     int // which of the containers is to end
	}{
		{"container", podOf(`[eat, "128Mi"]`, "    resources: {limits: {memory: 32Mi}}\n"), 0},
		{"child", podOf(`[child, eat, "128Mi"]`, "    resources: {limits: {memory: 32Mi}}\n"), 0},
		// The other one runs before: there would be no memory to start it.
		{"pod", podOf(`[sleep, forever]`, `  - name: other
    image: nodekit.dev/podtool:v1
    args: [eat, "128Mi"]
  resources: {limits: {memory: 64Mi}}
`), 1},
	} {
		n.Apply(strings.Replace(c.pod, "name: p}", "name: "+c.name+"}", 1))
		p := n.WaitPod(c.name, func(p *v1.Pod) bool {
			return len(p.Status.ContainerStatuses) > c.eater && p.Status.ContainerStatuses[c.eater].State.Terminated != nil
		})
		if end := p.Status.ContainerStatuses[c.eater].State.Terminated; end.Reason != "OOMKilled" || end.ExitCode != 137 {
			t.Errorf("%s: the container ended with %d (%s), want 137 (OOMKilled)", c.name, end.ExitCode, end.Reason)
		}
		if other := p.Status.ContainerStatuses[0]; c.eater != 0 && other.State.Running == nil {
			t.Errorf("the Pod's other container is %+v", other.State)
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

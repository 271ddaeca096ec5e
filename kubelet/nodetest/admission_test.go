package nodetest_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/node"
)

// named is podOf with another name.
func named(name, command, rest string) string {
	return strings.Replace(podOf(command, rest), "{name: p}", "{name: "+name+"}", 1)
}

// TestAdmission: a Pod that the node is too small for fails, one whose port is
// taken fails, and one whose port is given back waits for that. What was
// admitted stays so over a restart.
func TestAdmission(t *testing.T) {
	n := start(t, node.Config{})
	port := "    ports: [{containerPort: 80, hostPort: 28080}]\n"
	n.Apply(named("holder", `[sleep, forever]`, port))
	n.WaitReady("holder")
	n.Apply(named("big", `[sleep, forever]`, "    resources: {requests: {cpu: 5000}}\n"))
	if p := n.WaitPhase("big", v1.PodFailed); p.Status.Reason != "OutOfcpu" || !strings.Contains(p.Status.Message, "requested: 5000000") {
		t.Errorf("status %+v", p.Status)
	}
	n.Apply(named("far", `[sleep, forever]`, "  nodeSelector: {disk: ssd}\n"))
	if p := n.WaitPhase("far", v1.PodFailed); p.Status.Reason != "NodeAffinity" {
		t.Errorf("status %+v", p.Status)
	}
	n.Apply(named("late", `[sleep, forever]`, port))
	if p := n.WaitPhase("late", v1.PodFailed); p.Status.Reason != "NodePorts" {
		t.Errorf("status %+v", p.Status)
	}
	n.Restart()
	n.WaitReady("holder")
	if err := n.Client().Delete(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceDefault, Name: "holder"}}, nil); err != nil {
		t.Fatal(err)
	}
	n.Apply(named("next", `[sleep, forever]`, port))
	n.WaitReady("next")
}

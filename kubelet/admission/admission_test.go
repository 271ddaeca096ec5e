package admission_test

import (
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/admission"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func node() admission.Node {
	return admission.Node{
		Name: "n", Labels: func() map[string]string {
			return map[string]string{v1.LabelHostname: "n", "disk": "ssd", "size": "5"}
		},
		Room: pod.Amount{MilliCPU: 2000, Memory: 1 << 30}, MaxPods: 3,
	}
}

func asks(cpu, memory string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}}
	if cpu != "" {
		r.Requests[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		r.Requests[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return r
}

func somePod(name, cpu, memory string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{
		Containers: []v1.Container{{Name: "a", Resources: asks(cpu, memory)}},
	}}
	for _, c := range change {
		c(p)
	}
	return p
}

func ending(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{} }

func port(number int32, ip string, protocol v1.Protocol) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: number, HostIP: ip, Protocol: protocol, ContainerPort: 1}}
	}
}

func requires(expressions ...v1.NodeSelectorRequirement) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{}, {MatchExpressions: expressions}},
		}}}
	}
}

// verdict is "" for admitted, "wait REASON", or "REASON".
func verdict(err error) string {
	var reject *pod.RejectError
	switch wait := pod.Waiting(err); {
	case err == nil:
		return ""
	case errors.As(err, &reject): // never both
		return reject.Reason
	case wait != nil:
		return "wait " + wait.Reason
	}
	return err.Error()
}

func TestDecide(t *testing.T) {
	expression := func(key string, op v1.NodeSelectorOperator, values ...string) v1.NodeSelectorRequirement {
		return v1.NodeSelectorRequirement{Key: key, Operator: op, Values: values}
	}
	cases := map[string]struct {
		p    *v1.Pod
		held []*v1.Pod
		want string
	}{
		"an empty node":                 {somePod("p", "2", "1Gi"), nil, ""},
		"too much cpu":                  {somePod("p", "2100m", ""), nil, "OutOfcpu"},
		"too much memory":               {somePod("p", "", "2Gi"), nil, "OutOfmemory"},
		"others have the cpu":           {somePod("p", "600m", ""), []*v1.Pod{somePod("o", "1500m", "")}, "OutOfcpu"},
		"they are ending":               {somePod("p", "600m", ""), []*v1.Pod{somePod("o", "1500m", "", ending)}, "wait OutOfcpu"},
		"ending, and still not enough":  {somePod("p", "600m", ""), []*v1.Pod{somePod("o", "500m", "", ending), somePod("q", "1500m", "")}, "OutOfcpu"},
		"asking for nothing":            {somePod("p", "", ""), []*v1.Pod{somePod("o", "2", "2Gi")}, ""},
		"itself does not count":         {somePod("p", "2", ""), []*v1.Pod{somePod("p", "2", "")}, ""},
		"too many Pods":                 {somePod("p", "", ""), []*v1.Pod{somePod("x", "", ""), somePod("y", "", ""), somePod("z", "", "")}, "OutOfpods"},
		"a port is taken":               {somePod("p", "", "", port(80, "", "")), []*v1.Pod{somePod("o", "", "", port(80, "0.0.0.0", v1.ProtocolTCP))}, "NodePorts"},
		"by one that ends":              {somePod("p", "", "", port(80, "", "")), []*v1.Pod{somePod("o", "", "", port(80, "", ""), ending)}, "wait NodePorts"},
		"of another protocol":           {somePod("p", "", "", port(80, "", v1.ProtocolUDP)), []*v1.Pod{somePod("o", "", "", port(80, "", ""))}, ""},
		"on one address":                {somePod("p", "", "", port(80, "", "")), []*v1.Pod{somePod("o", "", "", port(80, "10.0.0.1", ""))}, "NodePorts"},
		"on different addresses":        {somePod("p", "", "", port(80, "10.0.0.2", "")), []*v1.Pod{somePod("o", "", "", port(80, "10.0.0.1", ""))}, ""},
		"another node's name":           {somePod("p", "", "", func(p *v1.Pod) { p.Spec.NodeName = "m" }), nil, "NodeAffinity"},
		"this node's name":              {somePod("p", "", "", func(p *v1.Pod) { p.Spec.NodeName = "n" }), nil, ""},
		"a selector":                    {somePod("p", "", "", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), nil, ""},
		"a selector for others":         {somePod("p", "", "", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }), nil, "NodeAffinity"},
		"affinity":                      {somePod("p", "", "", requires(expression("disk", "In", "hdd", "ssd"), expression("size", "Gt", "4"), expression("x", "DoesNotExist"))), nil, ""},
		"affinity, one of them not met": {somePod("p", "", "", requires(expression("disk", "In", "ssd"), expression("size", "Lt", "5"))), nil, "NodeAffinity"},
		"affinity, an empty term":       {somePod("p", "", "", requires()), nil, "NodeAffinity"},
		"affinity, unknown operator":    {somePod("p", "", "", requires(expression("disk", "Like", "s"))), nil, "NodeAffinity"},
		"another system":                {somePod("p", "", "", func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }), nil, "PodOSNotSupported"},
		"this system":                   {somePod("p", "", "", func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Linux} }), nil, ""},
	}
	for name, c := range cases {
		if got := verdict(admission.Decide(c.p, node(), c.held)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestMessage(t *testing.T) {
	err := admission.Decide(somePod("p", "600m", ""), node(), []*v1.Pod{somePod("o", "1500m", "")})
	if want := "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %q at its end", err, want)
	}
}

// TestLabelsThatChange has a node that gets a label, and Pods for which nobody
// asks for labels.
func TestLabelsThatChange(t *testing.T) {
	have, asked := map[string]string{}, 0
	n := node()
	n.Labels = func() map[string]string {
		asked++
		return have
	}
	l := admission.New(n, nil)
	selects := func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	if got := verdict(l.Admit(somePod("p", "", "", selects))); got != "NodeAffinity" {
		t.Errorf("without the label: %q", got)
	}
	have["disk"] = "ssd"
	if got := verdict(l.Admit(somePod("q", "", "", selects))); got != "" {
		t.Errorf("with the label: %q", got)
	}
	if got := verdict(l.Admit(somePod("r", "", ""))); got != "" || asked != 2 {
		t.Errorf("a Pod for any node: %q, and the labels were asked for %d times", got, asked)
	}
}

func TestLedger(t *testing.T) {
	started := func(p *v1.Pod) { p.Status.StartTime = &metav1.Time{} }
	ended := func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }
	running := somePod("running", "1500m", "", started, port(80, "", ""))
	l := admission.New(node(), []*v1.Pod{running, somePod("new", "2", ""), somePod("failed", "2", "", started, ended)})
	check := func(what, want string, err error) {
		t.Helper()
		if got := verdict(err); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	check("beside what an earlier process admitted", "OutOfcpu", l.Admit(somePod("p", "600m", "")))
	check("that one itself", "", l.Admit(running))
	check("what fits", "", l.Admit(somePod("p", "500m", "")))
	check("again", "", l.Admit(somePod("p", "9", "")))
	q := somePod("q", "", "", port(80, "", ""))
	check("a port", "NodePorts", l.Admit(q))
	check("resize beyond the node", "OutOfcpu", l.Resize(somePod("p", "3", "")))
	check("resize beyond the others", "wait OutOfcpu", l.Resize(somePod("p", "600m", "")))
	l.Ending(somePod("running", "", "", ending))
	check("its holder ends", "wait NodePorts", l.Admit(q))
	l.Release("running")
	l.Release("running")
	check("it has ended", "", l.Admit(q))
	check("resize into the room", "", l.Resize(somePod("p", "2", "")))
	check("which is taken now", "OutOfcpu", l.Admit(somePod("r", "100m", "")))
	l.Adopt(somePod("s", "9", ""))
	l.Release("p")
	check("what was adopted counts", "OutOfcpu", l.Admit(somePod("r", "100m", "")))
}

package nodetest_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/nodetest"
)

// change changes a part of the Pod that the API keeps apart.
func change(t *testing.T, n *nodetest.Node, part string, do func(*v1.Pod)) {
	t.Helper()
	p := &v1.Pod{}
	if err := n.Client().Get(t.Context(), v1.NamespaceDefault, "p", p); err != nil {
		t.Fatal(err)
	}
	do(p)
	p.ResourceVersion = ""
	if err := n.Client().UpdatePart(t.Context(), part, p); err != nil {
		t.Fatal(err)
	}
}

// debug adds an ephemeral container that runs podtool.
func debug(name, target string, args ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, v1.EphemeralContainer{
			EphemeralContainerCommon: v1.EphemeralContainerCommon{
				Name: name, Image: "nodekit.dev/podtool:v1", Args: args, Stdin: true, ImagePullPolicy: v1.PullIfNotPresent,
				Env: []v1.EnvVar{{Name: "FROM", Value: "kubectl"}}, VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/mnt"}},
				TerminationMessagePolicy: v1.TerminationMessageReadFile,
			},
			TargetContainerName: target,
		})
	}
}

func ephemeral(name string, is func(*v1.ContainerStatus) bool) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool {
		for i := range p.Status.EphemeralContainerStatuses {
			if s := &p.Status.EphemeralContainerStatuses[i]; s.Name == name {
				return is(s)
			}
		}
		return false
	}
}

func isRunning(s *v1.ContainerStatus) bool { return s.State.Running != nil }
func hasEnded(s *v1.ContainerStatus) bool  { return s.State.Terminated != nil }

// awaitFile waits until a container has written a file: one that is Ready without
// a probe has only been started.
func awaitFile(t *testing.T, n *nodetest.Node, pod, container, file string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := execIn(t, n, pod, container, []string{"/podtool", "cat", file}, io.Discard)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has no %s: %v", container, file, err)
		}
	}
}

// TestEphemeralContainers looks into a running Pod from containers that were
// not in its spec: its processes, its volumes. The Pod does not notice, they are
// not started twice, also not after a restart, and end with it.
func TestEphemeralContainers(t *testing.T) {
	n := start(t, node.Config{})
	n.Apply(podOf(`[do, "write /data/x kept", "sleep forever"]`, "    volumeMounts: [{name: data, mountPath: /data}]\n  volumes: [{name: data, emptyDir: {}}]\n"))
	n.WaitReady("p")
	awaitFile(t, n, "p", "main", "/data/x")
	change(t, n, "ephemeralcontainers", debug("look", "main", "do", "cat /proc/1/cmdline", "cat /mnt/x", "env FROM"))
	p := n.WaitPod("p", ephemeral("look", hasEnded))
	if s := p.Status.EphemeralContainerStatuses[0]; s.State.Terminated.ExitCode != 0 || s.RestartCount != 0 {
		t.Errorf("the ephemeral container ended as %+v", s.State.Terminated)
	}
	if text := n.Log("p", "look"); !strings.Contains(text, "forever") || !strings.Contains(text, "kept") || !strings.Contains(text, "kubectl") {
		t.Errorf("the ephemeral container printed %q", text)
	}
	change(t, n, "ephemeralcontainers", debug("stay", "", "sleep", "forever"))
	before := n.WaitPod("p", ephemeral("stay", isRunning))
	var out bytes.Buffer
	if err := execIn(t, n, "p", "stay", []string{"/podtool", "cat", "/mnt/x"}, &out); err != nil || strings.TrimSpace(out.String()) != "kept" {
		t.Errorf("exec in the ephemeral container printed %q, %v", out.String(), err)
	}
	n.Restart()
	after := n.WaitPod("p", ephemeral("stay", isRunning))
	for i, s := range after.Status.EphemeralContainerStatuses {
		if s.ContainerID != before.Status.EphemeralContainerStatuses[i].ContainerID || s.RestartCount != 0 {
			t.Errorf("after a restart of the node: %+v", s)
		}
	}
	if !node.Ready(after) || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the Pod noticed: %+v", after.Status)
	}
}

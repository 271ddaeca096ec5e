package criclientsuite

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func sandboxRules() []rule {
	return []rule{
		must("CRIC-SBX-001", "names the Pod in the sandbox's metadata",
			"PodSandboxMetadata", "Pod name of the sandbox. Same as the pod name in the Pod ObjectMeta.", asksSandbox(nil, lookMetadata)),
		must("CRIC-SBX-002", "begins with attempt 0 and counts up when it replaces a sandbox",
			"PodSandboxMetadata.attempt", "Attempt number of creating the sandbox. Default: 0.", checkSandboxAttempt),
		must("CRIC-SBX-003", "says where logs are by an absolute path",
			"PodSandboxConfig.log_directory", "Path to the directory on the host in which container log files are stored.", asksSandbox(nil, lookLogDirectory)),
		must("CRIC-SBX-004", "asks for a PID namespace for each container, and a network and IPC for the Pod",
			"NamespaceOption.pid", "The kubelet's runtime manager will set this to CONTAINER explicitly for v1 pods.", checkNamespaces(nil, plainNamespaces())),
		must("CRIC-SBX-005", "asks for the host's network, PID and IPC where the Pod does",
			"NamespaceOption.network", "Namespaces currently set by the kubelet: POD, NODE", checkNamespaces(func(p *v1.Pod) {
				p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
			}, &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE})),
		must("CRIC-SBX-006", "asks for one PID namespace where the Pod shares it",
			"NamespaceOption.pid", "Namespaces currently set by the kubelet: POD, CONTAINER, NODE, TARGET", checkNamespaces(func(p *v1.Pod) {
				yes := true
				p.Spec.ShareProcessNamespace = &yes
			}, &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD})),
		must("CRIC-SBX-007", "gives a sandbox with a network of its own a host name",
			"PodSandboxConfig.hostname", "Hostname could only be empty when the pod network namespace is NODE.", asksSandbox(nil, lookHostname)),
		must("CRIC-SBX-008", "passes the Pod's annotations on",
			"PodSandboxConfig.annotations", "This will include any annotations set on a pod through the Kubernetes API.", asksSandbox(func(p *v1.Pod) {
				p.Annotations = oddAnnotations()
			}, func(r *runtimeapi.RunPodSandboxRequest) error {
				return wantPairs("the sandbox's annotations", r.GetConfig().GetAnnotations(), oddAnnotations())
			})),
		facto("CRIC-SBX-009", "labels a sandbox with its Pod's name, namespace and UID, and with the Pod's own labels",
			"labels", "crictl, log collectors and metrics find Pods by io.kubernetes.pod.name, .namespace and .uid.", asksSandbox(nil, lookSandboxLabels)),
	}
}

// oddAnnotations returns annotations whose values are easily altered on the way.
func oddAnnotations() map[string]string {
	return map[string]string{"suite.example/colour": "blue, not red", "suite.example/lines": " one\n\"two\" ", "suite.example/empty": ""}
}

// asksSandbox returns a check of the RunPodSandbox request that follows from a change
// of a Pod.
func asksSandbox(change change, look func(*runtimeapi.RunPodSandboxRequest) error) look {
	return func(ctx context.Context, l *lab) error {
		s := l.draft(some(change)...)
		if err := s.give(); err != nil {
			return err
		}
		req, err := s.sandbox(ctx)
		if err != nil {
			return err
		}
		return look(req)
	}
}

// some returns the list of one change, empty if it is nil.
func some(one change) []change {
	if one == nil {
		return nil
	}
	return []change{one}
}

// lookMetadata accepts a name to which the kubelet has appended its node's, as it does
// for a Pod from a manifest.
func lookMetadata(r *runtimeapi.RunPodSandboxRequest) error {
	m, name := r.GetConfig().GetMetadata(), r.GetConfig().GetLabels()[podLabel]
	switch {
	case m.GetName() == "" || m.GetUid() == "":
		return fmt.Errorf("the sandbox's metadata are %v: want the Pod's name, UID and namespace", m)
	case m.GetName() != name && !strings.HasPrefix(m.GetName(), name+"-"):
		return fmt.Errorf("the sandbox's name is %q, the Pod's %q", m.GetName(), name)
	}
	return want("the sandbox's namespace", m.GetNamespace(), "default")
}

func checkSandboxAttempt(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	if err := s.breakSandbox(ctx); err != nil {
		return err
	}
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	list := s.calls().of("RunPodSandbox").good().sandboxes()
	first, next := list[0].GetConfig().GetMetadata(), list[len(list)-1].GetConfig().GetMetadata()
	if first.GetAttempt() != 0 || next.GetAttempt() <= first.GetAttempt() {
		return fmt.Errorf("the sandbox has the attempt %d, and its successor %d: want 0, and more", first.GetAttempt(), next.GetAttempt())
	}
	return want("the UID in the successor's metadata", next.GetUid(), first.GetUid())
}

// breakSandbox ends the Pod's sandbox with all that is in it, as a crash would.
func (s *subject) breakSandbox(ctx context.Context) error {
	ids, err := s.ready(ctx, s.name)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := s.runtime().Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			return err
		}
	}
	return nil
}

func lookLogDirectory(r *runtimeapi.RunPodSandboxRequest) error {
	if dir := r.GetConfig().GetLogDirectory(); !filepath.IsAbs(dir) {
		return fmt.Errorf("log_directory is %q: want an absolute path", dir)
	}
	return nil
}

func plainNamespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
}

// checkNamespaces requires the same modes of the sandbox and its container.
func checkNamespaces(change change, wanted *runtimeapi.NamespaceOption) look {
	return func(ctx context.Context, l *lab) error {
		s, err := l.pod(some(change)...)
		if err != nil {
			return err
		}
		sandbox, err := s.sandbox(ctx)
		if err != nil {
			return err
		}
		if err := wantModes("the sandbox", sandbox.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions(), wanted); err != nil {
			return err
		}
		container, err := s.container(ctx)
		if err != nil {
			return err
		}
		return wantModes("the container", container.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions(), wanted)
	}
}

func wantModes(of string, got, wanted *runtimeapi.NamespaceOption) error {
	for _, mode := range []struct {
		name        string
		got, wanted runtimeapi.NamespaceMode
	}{{"network", got.GetNetwork(), wanted.Network}, {"PID", got.GetPid(), wanted.Pid}, {"IPC", got.GetIpc(), wanted.Ipc}} {
		if mode.got != mode.wanted {
			return fmt.Errorf("the %s mode of %s is %v, want %v", mode.name, of, mode.got, mode.wanted)
		}
	}
	return nil
}

func lookHostname(r *runtimeapi.RunPodSandboxRequest) error {
	if r.GetConfig().GetHostname() == "" {
		return fmt.Errorf("the sandbox has no host name, and a network of its own")
	}
	return nil
}

func lookSandboxLabels(r *runtimeapi.RunPodSandboxRequest) error {
	m, labels := r.GetConfig().GetMetadata(), r.GetConfig().GetLabels()
	if labels[podLabel] == "" {
		return fmt.Errorf("the sandbox's labels are %q: the Pod's own %q is missing", labels, podLabel)
	}
	return wantPairs("the sandbox's labels", labels, map[string]string{
		"io.kubernetes.pod.name": m.GetName(), "io.kubernetes.pod.namespace": m.GetNamespace(), "io.kubernetes.pod.uid": m.GetUid(),
	})
}

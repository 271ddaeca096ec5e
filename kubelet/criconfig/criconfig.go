// Package criconfig translates a Pod into CRI configurations: the PodSandboxConfig and
// one ContainerConfig per container.
//
// The configurations are computed by pure functions (Sandbox, container). What must
// exist on the host before a container can mount it (the hosts file, the termination
// message file, the log directory, resolved subPaths) is created first by Container and
// removed by Clean; both may be repeated after a crash. The package does not call the
// runtime. It is safe for concurrent use for different Pods.
package criconfig

import (
	"context"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Object is any Kubernetes object.
type Object = object.Object

// Objects reads the ConfigMaps and Secrets for environments.
type Objects interface {
	Get(ctx context.Context, namespace, name string, into Object) error
}

// Node is what configurations contain about the node. All fields are required unless a
// default is documented.
type Node struct {
	Name string
	ID   string   // goes into pod.LabelNode
	IPs  []string // the node's addresses
	// PodsDir is <root>/pods. LogDir is the directory of all Pods' logs.
	PodsDir, LogDir string
	// SeccompDir holds the profiles that localhostProfile refers to.
	SeccompDir string
	// PodCgroup returns the path of a Pod's cgroup in the form for the runtime.
	PodCgroup func(*v1.Pod) string
	// GroupOOMKill ends all processes of a container when the kernel OOM-kills one of
	// them. It needs cgroup v2.
	GroupOOMKill bool
	// ResolvConf is the path of the node's resolver configuration.
	ResolvConf string
	// CPUs and Memory are the maximum for a container without limits, for
	// resourceFieldRef.
	CPUs   int64
	Memory int64
}

// Builder makes configurations for one node.
type Builder struct {
	node    Node
	objects Objects
}

// New returns a builder.
func New(node Node, objects Objects) *Builder { return &Builder{node, objects} }

func (b *Builder) podDir(uid types.UID) string { return filepath.Join(b.node.PodsDir, string(uid)) }

// Sandbox returns the configuration of the Pod's sandbox.
func (b *Builder) Sandbox(p *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := b.dns(p)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: attempt},
		LogDirectory: filepath.Join(b.node.LogDir, pod.LogDirectory(p)),
		DnsConfig:    dns,
		PortMappings: portMappings(p),
		Labels:       b.labels(p, p.Labels),
		Annotations:  p.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: b.node.PodCgroup(p),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(p),
				Privileged:       anyPrivileged(p),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if !p.Spec.HostNetwork {
		config.Hostname = hostname(p)
	}
	sandboxSecurity(p, config.Linux)
	return config, nil
}

// labels returns the labels by which the Pod's objects are found again, in addition to
// its own, which they override.
func (b *Builder) labels(p *v1.Pod, own map[string]string) map[string]string {
	labels := make(map[string]string, len(own)+4)
	for k, v := range own {
		labels[k] = v
	}
	labels[pod.LabelPodName] = p.Name
	labels[pod.LabelPodNamespace] = p.Namespace
	labels[pod.LabelPodUID] = string(p.UID)
	labels[pod.LabelNode] = b.node.ID
	return labels
}

func hostname(p *v1.Pod) string {
	name := p.Spec.Hostname
	if name == "" {
		name = p.Name
	}
	if len(name) > 63 { // HOST_NAME_MAX is 64 with the terminating NUL
		name = name[:63]
	}
	for len(name) > 0 && (name[len(name)-1] == '-' || name[len(name)-1] == '.') {
		name = name[:len(name)-1]
	}
	return name
}

func portMappings(p *v1.Pod) []*runtimeapi.PortMapping {
	if p.Spec.HostNetwork {
		return nil
	}
	var list []*runtimeapi.PortMapping
	for _, containers := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.HostPort == 0 {
					continue
				}
				list = append(list, &runtimeapi.PortMapping{
					ContainerPort: port.ContainerPort, HostPort: port.HostPort,
					HostIp: port.HostIP, Protocol: protocol(port.Protocol),
				})
			}
		}
	}
	return list
}

func protocol(p v1.Protocol) runtimeapi.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return runtimeapi.Protocol_UDP
	case v1.ProtocolSCTP:
		return runtimeapi.Protocol_SCTP
	default:
		return runtimeapi.Protocol_TCP
	}
}

// containerNamespaces returns the Pod's namespaces, except that an ephemeral container
// may share the PID namespace of its target container.
func containerNamespaces(r *pod.Request) *runtimeapi.NamespaceOption {
	n := namespaces(r.Pod)
	if r.Target != "" && n.Pid == runtimeapi.NamespaceMode_CONTAINER {
		n.Pid, n.TargetId = runtimeapi.NamespaceMode_TARGET, r.Target
	}
	return n
}

func namespaces(p *v1.Pod) *runtimeapi.NamespaceOption {
	n := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if s := p.Spec.ShareProcessNamespace; s != nil && *s {
		n.Pid = runtimeapi.NamespaceMode_POD
	}
	if p.Spec.HostPID {
		n.Pid = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostNetwork {
		n.Network = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		n.Ipc = runtimeapi.NamespaceMode_NODE
	}
	return n
}

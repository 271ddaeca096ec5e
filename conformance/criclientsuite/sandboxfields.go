package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func sandboxFieldRules() []rule {
	return []rule{
		relied("CRIC-SBX-010", "passes the Pod's host name and DNS configuration on",
			"Pod", "hostname and dnsConfig of a Pod are what its containers see.", asksSandbox(nameAndDNS, lookDNS)),
		relied("CRIC-SBX-011", "passes host ports on, and ports without one as none",
			"Pod", "A hostPort of a container leads to its containerPort.", asksSandbox(ports, lookPorts)),
		relied("CRIC-SBX-012", "passes sysctls on",
			"Pod", "The sysctls of a Pod's security context hold in its namespaces.", asksSandbox(func(p *v1.Pod) {
				p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{
					{Name: "net.ipv4.ip_unprivileged_port_start", Value: "81"}, {Name: "net.ipv4.ip_local_port_range", Value: "20000 50000"},
				}}
			}, func(r *runtimeapi.RunPodSandboxRequest) error {
				return wantPairs("the sandbox's sysctls", r.GetConfig().GetLinux().GetSysctls(), map[string]string{
					"net.ipv4.ip_unprivileged_port_start": "81", "net.ipv4.ip_local_port_range": "20000 50000",
				})
			})),
		must("CRIC-SBX-013", "asks for the handler of the Pod's RuntimeClass",
			"RunPodSandboxRequest.runtime_handler", "Named runtime configuration to use for this PodSandbox.", checkHandler, RuntimeClasses),
		must("CRIC-SBX-014", "asks for the default handler for a Pod without a RuntimeClass",
			"RunPodSandboxRequest.runtime_handler", "An empty string should select the default handler", asksSandbox(nil, func(r *runtimeapi.RunPodSandboxRequest) error {
				return want("runtime_handler", r.GetRuntimeHandler(), "")
			})),
		must("CRIC-SBX-015", "says in the sandbox's security context that a privileged container will come",
			"LinuxSandboxSecurityContext.privileged", "If a privileged container is to be executed within it, this MUST be true.", asksSandbox(func(p *v1.Pod) {
				yes := true
				p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: &yes}
			}, func(r *runtimeapi.RunPodSandboxRequest) error {
				return want("privileged of the sandbox", r.GetConfig().GetLinux().GetSecurityContext().GetPrivileged(), true)
			})),
		should("CRIC-SBX-016", "sets a group of the sandbox only with a user",
			"LinuxSandboxSecurityContext.run_as_group", "run_as_group should only be specified when run_as_user is specified; otherwise, the runtime MUST error.",
			asksSandbox(groupAlone, func(r *runtimeapi.RunPodSandboxRequest) error {
				if s := r.GetConfig().GetLinux().GetSecurityContext(); s.GetRunAsGroup() != nil && s.GetRunAsUser() == nil {
					return errors.New("run_as_group of the sandbox is set, run_as_user is not")
				}
				return nil
			})),
		must("CRIC-SBX-017", "picks the mappings of a Pod with a user namespace",
			"NamespaceOption.userns_options", "The Kubelet picks the user namespace configuration to use for the pod sandbox.", asksSandbox(func(p *v1.Pod) {
				no := false
				p.Spec.HostUsers = &no
			}, lookUserNamespace), UserNamespaces),
		must("CRIC-SBX-018", "gives the sandbox a cgroup for a parent",
			"LinuxPodSandboxConfig.cgroup_parent", "The cgroupfs style syntax will be used, but the container runtime can convert it to systemd semantics if needed.", asksSandbox(nil, lookCgroup)),
		should("CRIC-SBX-019", "tells what the Pod's containers take together",
			"LinuxPodSandboxConfig.resources", "Optional resources represents the sum of container resources for this sandbox", asksSandbox(limits, lookSum)),
	}
}

func nameAndDNS(p *v1.Pod) {
	two := "2"
	p.Spec.Hostname, p.Spec.DNSPolicy = "suite-host", v1.DNSNone
	p.Spec.DNSConfig = &v1.PodDNSConfig{
		Nameservers: []string{"192.0.2.53"}, Searches: []string{"suite.example"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}},
	}
}

func lookDNS(r *runtimeapi.RunPodSandboxRequest) error {
	dns := r.GetConfig().GetDnsConfig()
	return errors.Join(
		want("the sandbox's host name", r.GetConfig().GetHostname(), "suite-host"),
		wantList("its DNS servers", dns.GetServers(), []string{"192.0.2.53"}),
		wantList("its search domains", dns.GetSearches(), []string{"suite.example"}),
		wantList("its resolver's options", dns.GetOptions(), []string{"ndots:2"}),
	)
}

const containerPort = 80

// hostPort derives a Pod's host port from its name: the kubelet does not create a Pod
// that waits for another Pod's port.
func hostPort(pod string) int32 {
	const first, room = 38000, 1000
	n, _ := strconv.Atoi(pod[strings.LastIndex(pod, "-")+1:]) // every name ends with a number
	return int32(first + n%room)
}

func ports(p *v1.Pod) {
	p.Spec.Containers[0].Ports = []v1.ContainerPort{
		{ContainerPort: containerPort, HostPort: hostPort(p.Name), HostIP: "127.0.0.1", Protocol: v1.ProtocolUDP},
		{ContainerPort: containerPort + 1},
		{ContainerPort: containerPort + 2, HostPort: hostPort(p.Name), Protocol: v1.ProtocolTCP},
	}
}

func lookPorts(r *runtimeapi.RunPodSandboxRequest) error {
	var mapped []*runtimeapi.PortMapping
	for _, m := range r.GetConfig().GetPortMappings() {
		if m.HostPort != 0 {
			mapped = append(mapped, m)
		}
	}
	if len(mapped) != 2 {
		return fmt.Errorf("the port mappings with a host port are %v, want the two of the Pod", mapped)
	}
	if mapped[0].ContainerPort > mapped[1].ContainerPort {
		slices.Reverse(mapped)
	}
	m, host := mapped[0], hostPort(r.GetConfig().GetLabels()[podLabel])
	if m.HostPort != host || m.ContainerPort != containerPort || m.Protocol != runtimeapi.Protocol_UDP || m.HostIp != "127.0.0.1" {
		return fmt.Errorf("the port mapping is %v, want UDP from 127.0.0.1:%d to %d", m, host, containerPort)
	}
	if m = mapped[1]; m.HostPort != host || m.ContainerPort != containerPort+2 || m.Protocol != runtimeapi.Protocol_TCP || m.HostIp != "" {
		return fmt.Errorf("the port mapping is %v, want TCP from any address's %d to %d", m, host, containerPort+2)
	}
	return nil
}

// checkHandler puts the RuntimeClass into the same file as the Pod.
func checkHandler(ctx context.Context, l *lab) error {
	s := l.draft()
	class := s.name
	s.spec.Spec.RuntimeClassName = &class
	if err := s.give(&nodev1.RuntimeClass{
		TypeMeta: metav1.TypeMeta{APIVersion: "node.k8s.io/v1", Kind: "RuntimeClass"}, ObjectMeta: metav1.ObjectMeta{Name: class}, Handler: handler,
	}); err != nil {
		return err
	}
	req, err := s.sandbox(ctx)
	if err != nil {
		return err
	}
	return want("runtime_handler", req.GetRuntimeHandler(), handler)
}

// groupAlone gives the Pod a group but no user.
func groupAlone(p *v1.Pod) {
	group := int64(4000)
	p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsGroup: &group}
}

func lookUserNamespace(r *runtimeapi.RunPodSandboxRequest) error {
	u := r.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	maps := func(m *runtimeapi.IDMapping) bool {
		return m.GetContainerId() == 0 && m.GetHostId() > 0 && m.GetLength() > 0
	}
	if u.GetMode() != runtimeapi.NamespaceMode_POD || !slices.ContainsFunc(u.GetUids(), maps) || !slices.ContainsFunc(u.GetGids(), maps) {
		return fmt.Errorf("userns_options are %v: want the mode POD, and mappings of root to another", u)
	}
	return nil
}

func lookCgroup(r *runtimeapi.RunPodSandboxRequest) error {
	if parent := r.GetConfig().GetLinux().GetCgroupParent(); parent == "" || parent[0] != '/' && len(parent) < len("x.slice") {
		return fmt.Errorf("cgroup_parent is %q: want the path of a cgroup", parent)
	}
	return nil
}

func lookSum(r *runtimeapi.RunPodSandboxRequest) error {
	sum := r.GetConfig().GetLinux().GetResources()
	return errors.Join(
		want("memory_limit_in_bytes of the sandbox", sum.GetMemoryLimitInBytes(), memoryLimit),
		want("cpu_shares of the sandbox", sum.GetCpuShares(), cpuShares),
	)
}

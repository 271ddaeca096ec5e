package admission

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// hostPort is a port of the node that a Pod occupies.
type hostPort struct {
	ip       string // "" means every address
	port     int32
	protocol v1.Protocol
}

func (h hostPort) conflicts(o hostPort) bool {
	return h.port == o.port && h.protocol == o.protocol && (h.ip == o.ip || h.ip == "" || o.ip == "")
}

// portsFree returns which of the Pod's host ports is occupied by another Pod.
func portsFree(p *v1.Pod, others []*v1.Pod) *pod.RejectError {
	wanted := hostPorts(p)
	if len(wanted) == 0 {
		return nil
	}
	for _, o := range others {
		for _, have := range hostPorts(o) {
			for _, want := range wanted {
				if want.conflicts(have) {
					return &pod.RejectError{
						Reason:  "NodePorts",
						Message: fmt.Sprintf(rejected+"its hostPort %d/%s is taken by Pod %q", want.port, want.protocol, o.Namespace+"/"+o.Name),
					}
				}
			}
		}
	}
	return nil
}

// hostPorts returns the host ports of the containers that may run for the Pod's whole
// life: app containers and sidecars.
func hostPorts(p *v1.Pod) []hostPort {
	var ports []hostPort
	add := func(c *v1.Container) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			h := hostPort{port.HostIP, port.HostPort, port.Protocol}
			if h.ip == "0.0.0.0" || h.ip == "::" {
				h.ip = ""
			}
			if h.protocol == "" {
				h.protocol = v1.ProtocolTCP
			}
			ports = append(ports, h)
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; pod.IsSidecar(c) {
			add(c)
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return ports
}

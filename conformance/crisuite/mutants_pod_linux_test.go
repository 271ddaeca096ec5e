package crisuite_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func info() map[string]string { return map[string]string{"config": `{"some":"thing"}`} }

func unknownPod(c *exchange) bool {
	id, ok := c.req.(interface{ GetPodSandboxId() string })
	return ok && id.GetPodSandboxId() == unknownID
}

func unknownBox(c *exchange) bool {
	id, ok := c.req.(interface{ GetContainerId() string })
	return ok && id.GetContainerId() == unknownID
}

func sandboxMutants() []mutant {
	return []mutant{
		{"CRI-STATUS-001", "reports one condition", tell(func(r *runtimeapi.StatusResponse) { r.Status.Conditions = r.Status.Conditions[:1] })},
		{"CRI-STATUS-002", "has a version of its own kind", tell(func(r *runtimeapi.VersionResponse) { r.RuntimeVersion = "spring edition" })},
		{"CRI-STATUS-003", "is always verbose", tell(func(r *runtimeapi.StatusResponse) { r.Info = info() })},
		{"CRI-STATUS-003", "gives what is no JSON", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.StatusResponse); ok && c.req.(*runtimeapi.StatusRequest).Verbose {
				r.Info = map[string]string{"config": "{"}
			}
			return resp, err
		}}},
		{"CRI-STATUS-004", "has a handler twice", tell(func(r *runtimeapi.StatusResponse) {
			r.RuntimeHandlers = []*runtimeapi.RuntimeHandler{{}, {}}
		})},
		{"CRI-STATUS-005", "says nothing of cgroups", refuse("RuntimeConfig", codes.Unimplemented, nil)},
		{"CRI-STATUS-006", "takes no configuration", refuse("UpdateRuntimeConfig", codes.Unimplemented, nil)},
		{"CRI-SBX-001", "does not know a stopped sandbox", refuse("StopPodSandbox", codes.NotFound, second)},
		{"CRI-SBX-001", "removes a sandbox once", refuse("RemovePodSandbox", codes.NotFound, second)},
		{"CRI-SBX-002", "answers before it is ready", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			r.Status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		})},
		{"CRI-SBX-002", "loses labels", tell(func(r *runtimeapi.PodSandboxStatusResponse) { r.Status.Labels = nil })},
		{"CRI-SBX-003", "filters by one field alone", edit(func(r *runtimeapi.ListPodSandboxRequest) {
			if r.Filter.GetId() != "" {
				r.Filter.State, r.Filter.LabelSelector = nil, nil
			}
		})},
		{"CRI-SBX-004", "takes any handler for the default", edit(func(r *runtimeapi.RunPodSandboxRequest) { r.RuntimeHandler = "" })},
		{"CRI-SBX-005", "knows a sandbox only until it is removed", refuse("StopPodSandbox", codes.NotFound, second)},
		{"CRI-SBX-006", "stops no stranger", refuse("StopPodSandbox", codes.NotFound, unknownPod)},
		{"CRI-SBX-006", "removes no stranger", refuse("RemovePodSandbox", codes.NotFound, unknownPod)},
		{"CRI-SBX-007", "shows what is stopped as ready", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			r.Status.State = runtimeapi.PodSandboxState_SANDBOX_READY
		})},
		{"CRI-SBX-007", "lists what is stopped as ready", seen("ListPodSandbox shows", tell(func(r *runtimeapi.ListPodSandboxResponse) {
			for _, item := range r.Items {
				item.State = runtimeapi.PodSandboxState_SANDBOX_READY
			}
		}))},
		{"CRI-SBX-008", "stops nothing", swallow(&runtimeapi.StopPodSandboxResponse{}, "StopPodSandbox", nil)},
		{"CRI-SBX-008", "runs where nobody sees it", hides()},
		{"CRI-SBX-009", "removes nothing", swallow(&runtimeapi.RemovePodSandboxResponse{}, "RemovePodSandbox", nil)},
		{"CRI-SBX-010", "does not look at attempts", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Attempt = 0 })},
		{"CRI-SBX-010", "lists no attempts", seen("ListPodSandbox", tell(func(r *runtimeapi.ListPodSandboxResponse) {
			for _, item := range r.Items {
				item.Metadata.Attempt = 0
			}
		}))},
		{"CRI-SBX-011", "counts seconds", tell(func(r *runtimeapi.PodSandboxStatusResponse) { r.Status.CreatedAt /= 1e9 })},
		{"CRI-SBX-011", "takes the time of the stop for that of the creation", seen("when it is stopped", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			if r.Status.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
				r.Status.CreatedAt++
			}
		}))},
		{"CRI-SBX-012", "makes a sandbox for each request", anotherEach()},
		{"CRI-SBX-013", "tidies annotations up", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			for k, v := range r.Status.Annotations {
				r.Status.Annotations[k] = strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(v, "\n", " "), ""))
			}
		})},
		{"CRI-SBX-014", "makes containers anywhere", whitewash("CreateContainer", &runtimeapi.CreateContainerResponse{ContainerId: "made"})},
		{"CRI-SBX-015", "takes no update of a Pod", refuse("UpdatePodSandboxResources", codes.Unimplemented, nil)},
		{"CRI-SBX-016", "is always verbose about sandboxes", tell(func(r *runtimeapi.PodSandboxStatusResponse) { r.Info = info() })},
	}
}

// hides runs containers whose processes nobody can tell from others.
func hides() fault {
	return seen("is not among those of the machine", create(func(c *runtimeapi.ContainerConfig) {
		c.Envs = slices.DeleteFunc(c.Envs, func(e *runtimeapi.KeyValue) bool { return e.Key == "SUITE_MARK" })
	}))
}

// anotherEach takes no two requests for the same.
func anotherEach() fault {
	return runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid += fmt.Sprint("-", rand.Uint32()) })
}

func namespaced(change func(*runtimeapi.NamespaceOption)) fault {
	return both(
		create(func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext.NamespaceOptions) }),
		runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			change(c.Linux.SecurityContext.NamespaceOptions)
			if c.Linux.SecurityContext.NamespaceOptions.Network == runtimeapi.NamespaceMode_NODE {
				c.Hostname = ""
			} else if c.Hostname == "" {
				c.Hostname = "mutant"
			}
		}),
	)
}

func namespaceMutants() []mutant {
	pid := func(mode runtimeapi.NamespaceMode) fault {
		return create(func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = mode })
	}
	return []mutant{
		{"CRI-NS-001", "shows containers the node", pid(runtimeapi.NamespaceMode_NODE)},
		{"CRI-NS-002", "gives each container a PID namespace", pid(runtimeapi.NamespaceMode_CONTAINER)},
		{"CRI-NS-002", "shows containers of a Pod the node", seen("which is the node's", namespaced(func(n *runtimeapi.NamespaceOption) {
			n.Pid = runtimeapi.NamespaceMode_NODE
		}))},
		{"CRI-NS-003", "gives each container a PID namespace", pid(runtimeapi.NamespaceMode_CONTAINER)},
		{"CRI-NS-004", "knows no targets", pid(runtimeapi.NamespaceMode_CONTAINER)},
		{"CRI-NS-005", "shares the node's IPC", namespaced(func(n *runtimeapi.NamespaceOption) { n.Ipc = runtimeapi.NamespaceMode_NODE })},
		{"CRI-NS-006", "shares no IPC with the node", namespaced(func(n *runtimeapi.NamespaceOption) { n.Ipc = runtimeapi.NamespaceMode_POD })},
		{"CRI-NS-007", "shares the node's network", namespaced(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_NODE })},
		{"CRI-NS-008", "shares no network with the node", namespaced(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_POD })},
		{"CRI-NS-009", "sets no sysctls", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = nil })},
		{"CRI-NS-010", "says the same of every sandbox", seen("network:NODE", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			r.Status.Linux.Namespaces.Options = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
		}))},
		{"CRI-NS-010", "says nothing of namespaces", tell(func(r *runtimeapi.PodSandboxStatusResponse) { r.Status.Linux = nil })},
		{"CRI-NS-011", "claims user namespaces", both(claims(&runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}), namespaced(func(n *runtimeapi.NamespaceOption) {
			n.UsernsOptions = nil
		}))},
	}
}

// claims says that the default handler has features.
func claims(f *runtimeapi.RuntimeHandlerFeatures) fault {
	return tell(func(r *runtimeapi.StatusResponse) { r.RuntimeHandlers = []*runtimeapi.RuntimeHandler{{Features: f}} })
}

func networkMutants() []mutant {
	return []mutant{
		{"CRI-NET-001", "reports another address", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			r.Status.Network = &runtimeapi.PodSandboxNetworkStatus{Ip: "127.254.0.9"}
		})},
		{"CRI-NET-002", "reports one address for all", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.PodSandboxStatusResponse); ok && err == nil {
				if first := c.note("ip", r.Status.GetNetwork().GetIp()); first != nil {
					r.Status.Network.Ip = first.(string)
				}
			}
			return resp, err
		}}},
		{"CRI-NET-003", "takes loopback down", insideNetwork("ip", "link", "set", "lo", "down")},
		{"CRI-NET-004", "loses the resolver's options", runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			if c.DnsConfig != nil {
				c.DnsConfig.Options = nil
			}
		})},
		{"CRI-NET-005", "chooses a hostname", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "mutant" })},
		{"CRI-NET-006", "maps one port", seen("second", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = c.PortMappings[:min(1, len(c.PortMappings))] }))},
		{"CRI-NET-006", "maps no ports", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = nil })},
		{"CRI-NET-007", "refuses a mapping without a host port", refuse("RunPodSandbox", codes.InvalidArgument, func(c *exchange) bool {
			all := c.req.(*runtimeapi.RunPodSandboxRequest).GetConfig().GetPortMappings()
			return len(all) > 0 && all[0].GetHostPort() == 0
		})},
		{"CRI-NET-007", "maps the container's port to the host's", seen("which nobody asked for", runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			for _, m := range c.PortMappings {
				m.HostPort = m.ContainerPort
			}
		}))},
		{"CRI-NET-008", "keeps mapped ports", keepsPorts()},
		{"CRI-NET-009", "gives every Pod a name", seen("the hostname is", namespaced(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_POD }))},
		{"CRI-NET-009", "has a resolver for all", seen("the name servers", runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"192.0.2.77"}}
		}))},
		{"CRI-NET-010", "reports a second address of its own making", seen("at the additional address", tell(func(r *runtimeapi.PodSandboxStatusResponse) {
			r.Status.Network.AdditionalIps = []*runtimeapi.PodIP{{Ip: "127.254.0.9"}}
		}))},
		{"CRI-NET-011", "maps all ports as TCP's", runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			for _, m := range c.PortMappings {
				m.Protocol = runtimeapi.Protocol_TCP
			}
		})},
		{"CRI-NET-012", "maps ports at every address", seen("leads to the Pod at 127.0.0.1, too", runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			for _, m := range c.PortMappings {
				m.HostIp = ""
			}
		}))},
		{"CRI-NET-012", "maps ports at another address", seen("at the address that the mapping names", runSandbox(func(c *runtimeapi.PodSandboxConfig) {
			for _, m := range c.PortMappings {
				m.HostIp = "127.0.0.1"
			}
		}))},
	}
}

// insideNetwork runs a command in the network of each container that was started.
func insideNetwork(command ...string) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.StartContainerRequest); ok && err == nil {
			if pid := containerPID(c, r.ContainerId); pid != "" {
				_ = exec.Command("nsenter", append([]string{"-t", pid, "-n"}, command...)...).Run()
			}
		}
		return resp, err
	}}
}

// keepsPorts listens on a mapped port behind the stop.
func keepsPorts() fault {
	return fault{
		request: func(c *exchange, req proto.Message) (proto.Message, error) {
			if r, ok := req.(*runtimeapi.RunPodSandboxRequest); ok {
				for _, m := range r.Config.GetPortMappings() {
					c.note("port", m.HostPort)
				}
			}
			return nil, nil
		},
		answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if c.method != "StopPodSandbox" {
				return resp, err
			}
			if port := c.note("port", int32(0)); port != nil && c.once("listening") {
				if l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
					go func() {
						for {
							if _, err := l.Accept(); err != nil {
								return
							}
						}
					}()
				}
			}
			return resp, err
		},
	}
}

package criclientsuite_test

import (
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	kind "github.com/nodekit-project/nodekit/internal/fault"
)

func connectMutants() []mutant {
	bare := pretendErr(func(err error) error {
		if errors.Is(err, kind.Unimplemented) {
			return status.Error(codes.Internal, "the mutant wants it all")
		}
		return err
	})
	return []mutant{
		{"CRIC-CONN-001", "does not ask for the version", "Version had not been", keep("Version", &runtimeapi.VersionResponse{
			Version: "0.1.0", RuntimeName: "r", RuntimeVersion: "1", RuntimeApiVersion: "v1",
		}), alone},
		{"CRIC-CONN-002", "does not ask for the status", "Status had not been", keep("Status", &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{
			Conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}},
		}}), alone},
		{"CRIC-CONN-003", "does not ask for the configuration", "RuntimeConfig had not been", keep("RuntimeConfig", &runtimeapi.RuntimeConfigResponse{}), alone},
		{"CRIC-CONN-004", "needs what a runtime may lack", "", bare, alone},
		{"CRIC-CONN-005", "takes every network for ready", "while NetworkReady was false", pretend(func(_ *exchange, m *runtimeapi.StatusResponse) {
			for _, c := range m.GetStatus().GetConditions() {
				c.Status = true
			}
		}), alone},
		{"CRIC-CONN-006", "waits for ever", "StopPodSandbox has no deadline", endless("StopPodSandbox"), alone},
	}
}

// pretendErr edits the errors that the kubelet is told.
func pretendErr(change func(error) error) fault {
	return fault{told: func(_ *exchange, resp proto.Message, err error) (proto.Message, error) {
		if err != nil {
			return nil, change(err)
		}
		return resp, nil
	}}
}

func sandboxMutants() []mutant {
	ctx := func(c *runtimeapi.PodSandboxConfig) *runtimeapi.LinuxSandboxSecurityContext {
		return c.Linux.SecurityContext
	}
	pid := func(mode runtimeapi.NamespaceMode) fault {
		return run(func(c *runtimeapi.PodSandboxConfig) { ctx(c).NamespaceOptions.Pid = mode })
	}
	return []mutant{
		{"CRIC-SBX-001", "has no UID", "want the Pod's name, UID", run(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" }), nil},
		{"CRIC-SBX-001", "calls all Pods the same", "the sandbox's name is", run(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "pod" }), nil},
		{"CRIC-SBX-002", "begins with 1", "has the attempt 1", run(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Attempt++ }), nil},
		{"CRIC-SBX-003", "has a relative directory", "log_directory", run(func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = strings.TrimPrefix(c.LogDirectory, "/") }), nil},
		{"CRIC-SBX-004", "shares the PID namespace", "PID mode of the sandbox", pid(runtimeapi.NamespaceMode_POD), nil},
		{"CRIC-SBX-004", "asks for another for the container", "PID mode of the container", secure(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		}), nil},
		{"CRIC-SBX-005", "has a network always", "network mode", run(func(c *runtimeapi.PodSandboxConfig) {
			ctx(c).NamespaceOptions.Network = runtimeapi.NamespaceMode_POD
		}), nil},
		{"CRIC-SBX-005", "has an IPC namespace always", "IPC mode", run(func(c *runtimeapi.PodSandboxConfig) {
			ctx(c).NamespaceOptions.Ipc = runtimeapi.NamespaceMode_POD
		}), nil},
		{"CRIC-SBX-006", "never shares the PID namespace", "PID mode", pid(runtimeapi.NamespaceMode_CONTAINER), nil},
		{"CRIC-SBX-007", "names no host", "no host name", run(func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "" }), nil},
		{"CRIC-SBX-008", "drops annotations", "annotations", run(func(c *runtimeapi.PodSandboxConfig) { c.Annotations = nil }), nil},
		{"CRIC-SBX-008", "tidies annotations up", "suite.example/lines", run(func(c *runtimeapi.PodSandboxConfig) {
			for k, v := range c.Annotations {
				c.Annotations[k] = strings.TrimSpace(v)
			}
		}), nil},
		{"CRIC-SBX-009", "leaves the UID out of labels", "io.kubernetes.pod.uid", run(func(c *runtimeapi.PodSandboxConfig) { delete(c.Labels, "io.kubernetes.pod.uid") }), nil},
		{"CRIC-SBX-010", "has the node's DNS always", "DNS servers", run(func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"192.0.2.1"}}
		}), nil},
		{"CRIC-SBX-011", "maps no port", "port mappings", run(func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = nil }), nil},
		{"CRIC-SBX-011", "maps TCP always", "port mapping is", run(func(c *runtimeapi.PodSandboxConfig) {
			for _, m := range c.PortMappings {
				m.Protocol = runtimeapi.Protocol_TCP
			}
		}), nil},
		{"CRIC-SBX-011", "maps one port", "want the two", run(func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = c.PortMappings[:min(1, len(c.PortMappings))] }), nil},
		{"CRIC-SBX-012", "drops sysctls", "sysctls", run(func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = nil }), nil},
		{"CRIC-SBX-012", "passes one sysctl on", "sysctls", run(func(c *runtimeapi.PodSandboxConfig) { delete(c.Linux.Sysctls, "net.ipv4.ip_local_port_range") }), nil},
		{"CRIC-SBX-013", "has one handler", "runtime_handler", edit(func(r *runtimeapi.RunPodSandboxRequest) { r.RuntimeHandler = "" }), nil},
		{"CRIC-SBX-014", "has another default", "runtime_handler", edit(func(r *runtimeapi.RunPodSandboxRequest) { r.RuntimeHandler = "suite-handler" }), nil},
		{"CRIC-SBX-015", "hides privileged containers", "privileged of the sandbox", run(func(c *runtimeapi.PodSandboxConfig) { ctx(c).Privileged = false }), nil},
		{"CRIC-SBX-016", "sets a group alone", "run_as_group", run(func(c *runtimeapi.PodSandboxConfig) { ctx(c).RunAsGroup = &runtimeapi.Int64Value{Value: 1} }), nil},
		{"CRIC-SBX-017", "knows no user namespaces", "was not called", fault{}, without},
		{"CRIC-SBX-018", "names no cgroup", "cgroup_parent", run(func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "" }), nil},
		{"CRIC-SBX-019", "keeps the sum to itself", "of the sandbox is 0", run(func(c *runtimeapi.PodSandboxConfig) { c.Linux.Resources = nil }), nil},
	}
}

func sandboxFaultMutants() []mutant {
	another := edit(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.Metadata.Attempt += 5 })
	second := fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == "RunPodSandbox" && c.n > 1 {
			return another.ask(c)
		}
		return nil, nil
	}}
	leave := both(keep("StopPodSandbox", &runtimeapi.StopPodSandboxResponse{}), keep("RemovePodSandbox", &runtimeapi.RemovePodSandboxResponse{}))
	return []mutant{
		{"CRIC-SBX-020", "tries once", "was not started", giveUp("RunPodSandbox"), nil},
		{"CRIC-SBX-021", "does not wait", "times within", hurry("RunPodSandbox"), nil},
		{"CRIC-SBX-022", "makes another and leaves the first", "2 sandboxes that are ready", both(both(second, hide(true)), leave), nil},
		{"CRIC-SBX-023", "leaves the sandbox that ended", "neither stopped nor removed", leave, nil},
		{"CRIC-SBX-024", "does not expect that a sandbox goes", "of a sandbox that went when it was asked for", panics("PodSandboxStatus", "ListPodSandbox"), nil},
	}
}

// hide keeps the first sandbox of a Pod, or its containers, from the kubelet.
func hide(sandbox bool) fault {
	return fault{told: func(_ *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := resp.(*runtimeapi.ListPodSandboxResponse); ok && err == nil && sandbox {
			var shown []*runtimeapi.PodSandbox
			for _, item := range r.Items {
				if item.Metadata.Attempt > 0 {
					shown = append(shown, item)
				}
			}
			r.Items = shown
		}
		return resp, err
	}}
}

// panics lets a method fail for ever when another was answered with NotFound.
func panics(asked, failing string) fault {
	return fault{ask: func(c *exchange) (proto.Message, error) {
		if c.Method == failing && c.noted("gone "+c.pod) {
			return nil, status.Error(codes.Internal, "the mutant did not expect that")
		}
		return nil, nil
	}, told: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.Method == asked && errors.Is(err, kind.NotFound) {
			c.first("gone " + c.pod)
		}
		return resp, err
	}}
}

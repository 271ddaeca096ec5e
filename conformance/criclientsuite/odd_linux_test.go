package criclientsuite_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A client may do all that the odd one does, and the suite must not mind. It also meets
// what our kubelet does not.
func TestOddButLegalClient(t *testing.T) {
	t.Parallel()
	target := alone(t, fault{ask: odd, told: oddTold})
	target.Patience = paced(t, patience)
	passes(t, target, nil)
	passes(t, target, nil, "CRIC-CONN-005")
}

// odd asks for more than it needs, has labels, annotations, mounts and variables of its
// own, stops and removes what is stopped and removed, and is in no hurry.
func odd(c *exchange) (proto.Message, error) {
	const moment = 5 * time.Millisecond
	switch r := c.Request.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		_, _ = c.rt.Status(c.ctx, &runtimeapi.StatusRequest{Verbose: true})
		_, _ = c.rt.ListPodSandbox(c.ctx, &runtimeapi.ListPodSandboxRequest{})
		oddSandbox(r.Config)
		for r.Config.Linux.SecurityContext.NamespaceOptions.Network == runtimeapi.NamespaceMode_POD && !networkReady(c) && c.ctx.Err() == nil {
			time.Sleep(moment)
		}
	case *runtimeapi.CreateContainerRequest:
		oddSandbox(r.SandboxConfig)
		r.Config.Labels["odd.example.com/added"] = "yes"
		r.Config.Annotations["odd.example.com/added"] = "yes"
		r.Config.Envs = append([]*runtimeapi.KeyValue{{Key: "KUBERNETES_ODD", Value: []byte("yes")}}, r.Config.Envs...)
		r.Config.Mounts = append(r.Config.Mounts, &runtimeapi.Mount{ContainerPath: "/odd", HostPath: "/", Readonly: true})
		r.Config.LogPath = r.Config.Metadata.Name + "/." + "/" + "odd-" + r.Config.LogPath[len(r.Config.Metadata.Name)+1:]
		if l := r.Config.Linux; l.Resources.CpuQuota > 0 { // another period, the same share
			l.Resources.CpuQuota, l.Resources.CpuPeriod = l.Resources.CpuQuota/2, l.Resources.CpuPeriod/2
		}
	case *runtimeapi.StartContainerRequest:
		_, _ = c.rt.ContainerStatus(c.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: r.ContainerId, Verbose: true})
		time.Sleep(moment)
	}
	return nil, nil
}

func oddSandbox(c *runtimeapi.PodSandboxConfig) {
	c.Labels["odd.example.com/added"] = "yes"
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations["odd.example.com/added"] = "yes"
	c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: 2}
	if strings.HasPrefix(c.Labels[podLabel], "cric-sbx-019-") { // whose container asks for this
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 64 << 20}
	}
	for _, of := range c.PortMappings { // a port without one on the host, too
		if of.HostPort > 0 && len(c.PortMappings) == 1 {
			c.PortMappings = append(c.PortMappings, &runtimeapi.PortMapping{ContainerPort: of.ContainerPort + 1})
			break
		}
	}
}

// networkReady asks the runtime for its network.
func networkReady(c *exchange) bool {
	resp, err := c.rt.Status(c.ctx, &runtimeapi.StatusRequest{})
	return err == nil && !slices.ContainsFunc(resp.Status.Conditions, func(c *runtimeapi.RuntimeCondition) bool {
		return c.Type == runtimeapi.NetworkReady && !c.Status
	})
}

func oddTold(c *exchange, resp proto.Message, err error) (proto.Message, error) {
	ctx := context.WithoutCancel(c.ctx)
	switch r := c.Request.(type) {
	case *runtimeapi.StopContainerRequest:
		if err == nil {
			_, _ = c.rt.StopContainer(c.ctx, r)
		}
	case *runtimeapi.StopPodSandboxRequest:
		if err == nil {
			_, _ = c.rt.StopPodSandbox(c.ctx, r)
		}
	case *runtimeapi.RemovePodSandboxRequest:
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_, _ = c.rt.RemovePodSandbox(ctx, r)
		}
	}
	return resp, err
}

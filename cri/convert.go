package cri

import (
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The messages below share the config's maps and sub-messages: a recorded
// config is never modified, and gRPC only reads.

func (s *Sandbox) state() runtimeapi.PodSandboxState {
	if s.Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (s *Sandbox) item() *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: s.state(), CreatedAt: s.CreatedAt.UnixNano(),
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
	}
}

func (s *Sandbox) status() *runtimeapi.PodSandboxStatus {
	network := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range s.IPs {
		if i == 0 {
			network.Ip = ip
			continue
		}
		network.AdditionalIps = append(network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return &runtimeapi.PodSandboxStatus{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: s.state(), CreatedAt: s.CreatedAt.UnixNano(),
		Network: network,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
	}
}

func (c *Container) state() runtimeapi.ContainerState {
	switch {
	case c.Exit != nil:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case !c.StartedAt.IsZero():
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}

func (c *Container) item() *runtimeapi.Container {
	return &runtimeapi.Container{
		Id: c.ID, PodSandboxId: c.Sandbox.ID, Metadata: c.Config.GetMetadata(), Image: c.Config.GetImage(),
		ImageRef: c.ImageRef, ImageId: c.ImageRef, State: c.state(), CreatedAt: c.CreatedAt.UnixNano(),
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
	}
}

func (c *Container) status() *runtimeapi.ContainerStatus {
	st := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: c.Config.GetMetadata(), State: c.state(), CreatedAt: c.CreatedAt.UnixNano(),
		StartedAt: nano(c.StartedAt), Image: c.Config.GetImage(), ImageRef: c.ImageRef, ImageId: c.ImageRef,
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(), Mounts: c.Config.GetMounts(),
		LogPath: c.LogPath, StopSignal: c.Config.GetStopSignal(),
	}
	if res := c.Config.GetLinux().GetResources(); res != nil {
		st.Resources = &runtimeapi.ContainerResources{Linux: res}
	}
	if c.Exit != nil {
		st.FinishedAt, st.ExitCode = nano(c.Exit.At), c.Exit.Code
		st.Reason, st.Message = c.Exit.Reason, c.Exit.Message
	}
	return st
}

func nano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// normal fills in what the author may leave out of an Exit.
func (e Exit) normal() *Exit {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.Reason == "" {
		e.Reason = "Completed"
		if e.Code != 0 {
			e.Reason = "Error"
		}
	}
	return &e
}

// updated returns the config with the limits of an UpdateContainerResources
// laid over its own: a zero value leaves a limit as it was.
func updated(config *runtimeapi.ContainerConfig, res *runtimeapi.LinuxContainerResources) *runtimeapi.ContainerConfig {
	dup := proto.Clone(config).(*runtimeapi.ContainerConfig)
	if dup.Linux == nil {
		dup.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	if dup.Linux.Resources == nil {
		dup.Linux.Resources = &runtimeapi.LinuxContainerResources{}
	}
	if len(res.GetHugepageLimits()) > 0 {
		dup.Linux.Resources.HugepageLimits = nil // Merge appends to lists
	}
	proto.Merge(dup.Linux.Resources, res)
	return dup
}

// matches reports whether every selector is among the labels.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

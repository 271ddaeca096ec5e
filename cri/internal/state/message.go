package state

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/record"
)

// The messages below share the config's maps and sub-messages: a recorded
// config is never modified, and gRPC only reads.

func sandboxState(s *record.Sandbox) runtimeapi.PodSandboxState {
	if s.Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxItem(s *record.Sandbox) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: sandboxState(s), CreatedAt: s.CreatedAt.UnixNano(),
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
	}
}

func sandboxStatus(s *record.Sandbox) *runtimeapi.PodSandboxStatus {
	network := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range s.IPs {
		if i == 0 {
			network.Ip = ip
			continue
		}
		network.AdditionalIps = append(network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return &runtimeapi.PodSandboxStatus{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: sandboxState(s), CreatedAt: s.CreatedAt.UnixNano(),
		Network: network,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
	}
}

func containerState(c *record.Container) runtimeapi.ContainerState {
	switch {
	case c.Exit != nil:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case !c.StartedAt.IsZero():
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}

func containerItem(c *record.Container) *runtimeapi.Container {
	return &runtimeapi.Container{
		Id: c.ID, PodSandboxId: c.Sandbox.ID, Metadata: c.Config.GetMetadata(), Image: c.Config.GetImage(),
		ImageRef: c.ImageRef, ImageId: c.ImageRef, State: containerState(c), CreatedAt: c.CreatedAt.UnixNano(),
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
	}
}

func containerStatus(c *record.Container) *runtimeapi.ContainerStatus {
	st := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: c.Config.GetMetadata(), State: containerState(c), CreatedAt: c.CreatedAt.UnixNano(),
		StartedAt: nano(c.StartedAt), Image: c.Config.GetImage(), ImageRef: c.ImageRef, ImageId: c.ImageRef,
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(), Mounts: c.Config.GetMounts(),
		LogPath: c.LogPath, StopSignal: c.StopSignal,
	}
	if c.User != nil {
		st.User = &runtimeapi.ContainerUser{Linux: c.User}
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

// eventOf requires the table to be locked.
func eventOf(s *Sandbox, id string, kind runtimeapi.ContainerEventType) *event.Event {
	return &runtimeapi.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(),
		PodSandboxStatus: sandboxStatus(s.Now()), ContainersStatuses: statusesOf(s),
	}
}

// statusesOf requires the table to be locked.
func statusesOf(s *Sandbox) []*runtimeapi.ContainerStatus {
	all := make([]*runtimeapi.ContainerStatus, 0, len(s.containers))
	for _, c := range sorted(s.containers) {
		all = append(all, containerStatus(c.Now()))
	}
	return all
}

package crisuite

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func codeRules() []rule {
	return []rule{
		relied("CRI-CODE-001", "answers a status of a sandbox that never was with NotFound",
			"PLEG", "The kubelet takes a sandbox for gone when PodSandboxStatus answers NotFound, and reports any other error again and again.", checkNoSandboxCode),
		relied("CRI-CODE-002", "answers a status of a container that never was with NotFound",
			"PLEG", "The kubelet takes a container for gone when ContainerStatus answers NotFound, and reports any other error again and again.", checkNoContainerCode, Containers),
		facto("CRI-CODE-003", "answers calls for a container that never was with NotFound",
			"errors", "The kubelet parses NotFound alone of the codes that say that something is gone.", checkNotFoundCodes, Containers),
		facto("CRI-CODE-004", "refuses requests without what they need, and stays well",
			"robustness", "A request without a config, a name or an id is a client's mistake: the runtime answers with an error and goes on.", checkEmptyRequests),
		facto("CRI-CODE-005", "refuses a container in a sandbox that never was, and leaves nothing",
			"SyncPod", "A sandbox may have gone between two calls of the kubelet.", checkCreateNowhere, Containers),
		relied("CRI-CODE-006", "refuses a container whose image is not present",
			"EnsureImageExists", "The kubelet pulls an image before it makes a container of it; an image may have gone in between.", checkCreateWithoutImage, Pull),
	}
}

func notFound(call string, err error) error {
	if err == nil {
		return fmt.Errorf("%s of an id that never was succeeded", call)
	}
	if !errors.Is(err, cri.ErrNotFound) {
		return fmt.Errorf("%s of an id that never was: %w; want the code NotFound", call, err)
	}
	return nil
}

func checkNoSandboxCode(ctx context.Context, s *subject) error {
	_, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: unknownID})
	return notFound("PodSandboxStatus", err)
}

func checkNoContainerCode(ctx context.Context, s *subject) error {
	_, err := s.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: unknownID})
	return notFound("ContainerStatus", err)
}

// attempt is a call and the feature that a runtime needs for it.
type attempt struct {
	call  string
	needs Feature
	do    func() error
}

// checkNotFoundCodes skips the calls that the runtime does not have.
func checkNotFoundCodes(ctx context.Context, s *subject) error {
	for _, a := range []attempt{
		{"StartContainer", Containers, func() error {
			_, err := s.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: unknownID})
			return err
		}},
		{"ExecSync", Exec, func() error {
			_, err := s.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: unknownID, Cmd: []string{"x"}})
			return err
		}},
		{"Exec", Streaming, func() error {
			_, err := s.Runtime.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: unknownID, Cmd: []string{"x"}, Stdout: true})
			return err
		}},
		{"Attach", Streaming, func() error {
			_, err := s.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: unknownID, Stdout: true})
			return err
		}},
		{"ContainerStats", Stats, func() error {
			_, err := s.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: unknownID})
			return err
		}},
		{"ReopenContainerLog", LogRotation, func() error {
			_, err := s.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: unknownID})
			return err
		}},
		{"UpdateContainerResources", Resources, func() error {
			_, err := s.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: unknownID, Linux: &runtimeapi.LinuxContainerResources{}})
			return err
		}},
	} {
		if s.target.missing([]Feature{a.needs}) != nil {
			continue
		}
		if err := notFound(a.call, a.do()); err != nil {
			return err
		}
	}
	return nil
}

func checkEmptyRequests(ctx context.Context, s *subject) error {
	for _, a := range []attempt{
		{"RunPodSandbox", "", func() error {
			_, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{})
			return err
		}},
		{"RunPodSandbox without metadata", "", func() error {
			_, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{}})
			return err
		}},
		{"CreateContainer", "", func() error {
			_, err := s.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{})
			return err
		}},
		{"StartContainer", "", func() error {
			_, err := s.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{})
			return err
		}},
		{"PodSandboxStatus", "", func() error {
			_, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{})
			return err
		}},
		{"ContainerStatus", "", func() error {
			_, err := s.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{})
			return err
		}},
	} {
		if err := a.do(); err == nil {
			return fmt.Errorf("an empty request of %s succeeded", a.call)
		} else if errors.Is(err, cri.ErrUnavailable) {
			return fmt.Errorf("%s, empty: %w", a.call, err)
		}
	}
	if _, err := s.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return fmt.Errorf("Version behind the empty requests: %w", err)
	}
	return nil
}

func checkCreateNowhere(ctx context.Context, s *subject) error {
	p := &pod{s: s, id: unknownID, config: s.sandbox("nowhere")}
	if b, err := p.create(ctx, forever); err == nil {
		return fmt.Errorf("CreateContainer in a sandbox that never was made container %q", b.id)
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{LabelSelector: map[string]string{label: s.mark}})
	if err != nil {
		return err
	}
	return exactly(all)
}

func checkCreateWithoutImage(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, forever, func(c *runtimeapi.ContainerConfig) { c.Image.Image = s.images.ref(uniqueRepo + s.mark + ":v1") })
	if err == nil {
		return fmt.Errorf("CreateContainer of an image that is not present made container %q", b.id)
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		return err
	}
	return exactly(all)
}

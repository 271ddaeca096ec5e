package observer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// maxMessage is how much of a termination message is read, in bytes.
const maxMessage = 4096

// Observe asks the runtime for everything that it knows of the Pod now. It sees only
// what this node created.
func (o *Observer) Observe(ctx context.Context, uid types.UID) (*pod.Observation, error) {
	select {
	case o.active <- struct{}{}:
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, lookMost)
	defer cancel()
	labels := map[string]string{pod.LabelPodUID: string(uid), pod.LabelNode: o.config.NodeID}
	seen := &pod.Observation{}
	sandboxes, err := o.config.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels},
	})
	if err != nil {
		return nil, fmt.Errorf("listing the Pod's sandboxes: %w", err)
	}
	for _, item := range sandboxes.Items {
		if err := o.sandbox(ctx, item.Id, seen); err != nil {
			return nil, err
		}
	}
	states := map[string]int32{}
	for _, item := range sandboxes.Items {
		states[item.Id] = int32(item.State)
	}
	defer o.last.saw(uid, states)
	if len(seen.Sandboxes) == 0 {
		return seen, nil // a container is never without its sandbox
	}
	containers, err := o.config.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{LabelSelector: labels},
	})
	if err != nil {
		return nil, fmt.Errorf("listing the Pod's containers: %w", err)
	}
	for _, item := range containers.Containers {
		states[item.Id] = int32(item.State)
		if err := o.container(ctx, item, seen); err != nil {
			return nil, err
		}
	}
	seen.Sort()
	return seen, nil
}

func (o *Observer) sandbox(ctx context.Context, id string, seen *pod.Observation) error {
	resp, err := o.config.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if errors.Is(err, fault.NotFound) {
		return nil // removed since the list was made
	}
	if err != nil {
		return fmt.Errorf("asking for sandbox %q: %w", id, err)
	}
	s := resp.GetStatus()
	sandbox := pod.Sandbox{
		ID: id, Attempt: s.GetMetadata().GetAttempt(), CreatedAt: moment(s.GetCreatedAt()),
		Ready: s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY,
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		sandbox.IPs = append(sandbox.IPs, ip)
	}
	for _, more := range s.GetNetwork().GetAdditionalIps() {
		sandbox.IPs = append(sandbox.IPs, more.GetIp())
	}
	seen.Sandboxes = append(seen.Sandboxes, sandbox)
	return nil
}

func (o *Observer) container(ctx context.Context, item *runtimeapi.Container, seen *pod.Observation) error {
	resp, err := o.config.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: item.Id})
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking for container %q: %w", item.Id, err)
	}
	s := resp.GetStatus()
	delay, _ := time.ParseDuration(s.GetAnnotations()[pod.AnnotationDelay]) // a missing one means none
	c := pod.Container{
		ID: item.Id, SandboxID: item.PodSandboxId, Name: s.GetLabels()[pod.LabelContainerName],
		Attempt: s.GetMetadata().GetAttempt(), Hash: s.GetAnnotations()[pod.AnnotationHash], Delay: delay,
		State: stateOf(s.GetState()), Image: imageName(s.GetImage()), ImageID: s.GetImageRef(),
		CreatedAt: moment(s.GetCreatedAt()), StartedAt: moment(s.GetStartedAt()), FinishedAt: moment(s.GetFinishedAt()),
		ExitCode: s.GetExitCode(), Reason: s.GetReason(), Message: s.GetMessage(), LogPath: s.GetLogPath(),
	}
	if text := s.GetAnnotations()[pod.AnnotationResources]; text != "" {
		c.Resources = &v1.ResourceRequirements{}
		if err := json.Unmarshal([]byte(text), c.Resources); err != nil {
			c.Resources = nil // not ours: nothing is known
		}
	}
	if c.State == pod.Exited {
		if message := terminationMessage(ctx, s); message != "" {
			c.Message = message
		}
	}
	seen.Containers = append(seen.Containers, c)
	return nil
}

// imageName prefers the user's reference over the ID by which the container was
// created.
func imageName(spec *runtimeapi.ImageSpec) string {
	if name := spec.GetUserSpecifiedImage(); name != "" {
		return name
	}
	if name := spec.GetImage(); !strings.HasPrefix(name, "sha256:") {
		return name
	}
	return ""
}

func stateOf(s runtimeapi.ContainerState) pod.State {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return pod.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return pod.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return pod.Exited
	default:
		return pod.Unknown
	}
}

// moment converts nanoseconds since 1970; zero means never.
func moment(ns int64) time.Time {
	if ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// terminationMessage returns the contents of the container's termination message file,
// or the end of its log if its policy asks for that.
func terminationMessage(ctx context.Context, s *runtimeapi.ContainerStatus) string {
	text := readMessage(s.GetAnnotations()[pod.AnnotationTerminationFile])
	if text == "" && s.GetExitCode() != 0 && s.GetAnnotations()[pod.AnnotationTerminationPolicy] == "FallbackToLogsOnError" {
		text = logTail(ctx, s.GetLogPath())
	}
	return text
}

func readMessage(path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMessage))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(data), "�")
}

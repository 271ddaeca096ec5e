package worker

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// startOne starts a container. A failure blocks only that container.
func (w *worker) startOne(v *pod.View, s pod.Start) {
	if w.starting.Err() != nil {
		return
	}
	err := w.start(w.starting, v, s)
	if err == nil {
		w.blocks.clear(s.Name)
		return
	}
	if w.starting.Err() != nil {
		return
	}
	before := w.blocks.now()[s.Name].Message
	b := w.blocks.set(s.Name, err)
	if b.Message != before {
		w.step(pod.StepWait, b.Reason, time.Time{}, fmt.Errorf("container %q: %w", s.Name, err))
	}
	w.warn(s.Name, pod.StartEvent(b.Reason), b.Message)
	if b.Reason == "ImagePullBackOff" {
		w.event(s.Name, pod.EventBackOff, fmt.Sprintf("Back-off pulling image %q", pod.Find(v.Pod, s.Name).Image))
	}
	w.log.Warn("container not started", "container", s.Name, "err", err)
}

func (w *worker) start(ctx context.Context, v *pod.View, s pod.Start) error {
	c := pod.Find(v.Pod, s.Name)
	sandbox := v.Seen.Sandbox()
	sandboxConfig, err := w.config.Builder.Sandbox(v.Pod, sandbox.Attempt)
	if err != nil {
		return &pod.StartError{Reason: "CreateContainerConfigError", Err: err}
	}
	image, err := w.image(ctx, v.Pod, c, sandboxConfig)
	if err != nil {
		return err
	}
	begun := time.Now()
	request := &pod.Request{
		Pod: v.Pod, Container: c, Start: s, Volumes: w.ready.volumes, Devices: w.ready.devices[c.Name], Sandbox: *sandbox,
		ImageID: image.GetId(), ImageUserName: image.GetUsername(),
	}
	if uid := image.GetUid(); uid != nil {
		request.ImageUser = &uid.Value
	}
	if request.Target, err = targetOf(v, c.Name); err != nil {
		return err
	}
	if err := w.config.Devices.PreStart(ctx, v.Pod, c.Name); err != nil {
		return &pod.StartError{Reason: "PreStartHookError", Err: fmt.Errorf("preparing devices: %w", err)}
	}
	config, err := w.config.Builder.Container(ctx, request)
	if err != nil {
		return err
	}
	id, err := w.create(ctx, c.Name, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.ID, Config: config, SandboxConfig: sandboxConfig})
	w.step(pod.StepContainer, c.Name, begun, err)
	if err != nil {
		return err
	}
	return w.postStart(ctx, v, c, id)
}

// targetOf returns the instance whose processes an ephemeral container is to see, "" if
// it names none. If that container is not running, the error is a WaitError.
func targetOf(v *pod.View, name string) (id string, err error) {
	e := pod.Ephemeral(v.Pod, name)
	if e == nil || e.TargetContainerName == "" {
		return "", nil
	}
	if c := v.Seen.Latest(e.TargetContainerName); c != nil && c.State == pod.Running {
		return c.ID, nil
	}
	return "", &pod.StartError{Reason: "CreateContainerConfigError", Err: fault.FailedPrecondition.Errorf(
		"the target container %q does not run", e.TargetContainerName)}
}

// create creates and starts the container. If it does not start, it is kept: the
// runtime's record of it decides what follows, as for one that ran and failed. A
// runtime without such a record still reports it as created, and the next plan replaces
// it.
func (w *worker) create(ctx context.Context, name string, request *runtimeapi.CreateContainerRequest) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	created, err := w.config.Runtime.CreateContainer(ctx, request)
	if err != nil {
		return "", &pod.StartError{Reason: "CreateContainerError", Err: fmt.Errorf("creating the container: %w", err)}
	}
	id = created.ContainerId
	w.event(name, pod.EventCreated, "Created container "+name)
	if _, err := w.config.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return "", &pod.StartError{Reason: "RunContainerError", Err: fmt.Errorf("starting the container: %w", err)}
	}
	w.event(name, pod.EventStarted, "Started container "+name)
	return id, nil
}

// postStart runs the container's postStart hook. If the hook fails, the container is
// killed, and its restart policy decides what follows. A hook that is interrupted
// because the Pod terminates has not failed: the container ends with the Pod, within
// its grace period.
func (w *worker) postStart(ctx context.Context, v *pod.View, c *v1.Container, id string) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := w.hook(ctx, c, c.Lifecycle.PostStart, target{id, address(v)})
	if err == nil || ctx.Err() != nil {
		return nil
	}
	w.step(pod.StepWait, "PostStartHookError", time.Time{}, fmt.Errorf("postStart hook of container %q: %w", c.Name, err))
	w.warn(c.Name, pod.EventFailedPostStart, "The postStart hook failed: "+err.Error())
	w.log.Warn("postStart hook failed: the container is killed", "container", c.Name, "err", err)
	w.tellKill(pod.Kill{ID: id, Name: c.Name, Message: "its postStart hook failed"})
	stop, cancel := context.WithTimeout(w.ctx, callTimeout)
	defer cancel()
	_, err = w.config.Runtime.StopContainer(stop, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 2})
	return unlessGone("stopping container", id, err)
}

// address returns the address at which the node reaches the Pod's containers.
func address(v *pod.View) string {
	if s := v.Seen.Sandbox(); s != nil && len(s.IPs) > 0 {
		return s.IPs[0]
	}
	return "127.0.0.1"
}

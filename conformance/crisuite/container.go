package crisuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

// endTime is how long a container that has been killed, or whose program ends
// at once, may be shown as running.
const endTime = 5 * time.Second

// logName is the log path of the containers that the suite makes.
const logName = "main.log"

func containerRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-CTR-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "stops and removes a container again without an error",
		Spec: spec("StopContainer, RemoveContainer", "This call is idempotent, and must not return an error if the container has already "+
			"been stopped / has already been removed."),
		Check: withImage(checkContainerIdempotent),
	}, {
		ID: "CRI-CTR-002", Level: conformance.Must, Tier: conformance.Quick,
		Title: "reports a container as created, running and exited, and the exit code as it was",
		Spec:  spec("ContainerStatus", "Exit code of the container. Only required when finished_at != 0."),
		Check: withImage(checkExitCode),
	}}
}

// withImage is with for rules that run the target's image.
func withImage(look func(context.Context, *subject) error) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		if in.Target.Image == "" || len(in.Target.Sleep) == 0 || len(in.Target.Fail) == 0 {
			return conformance.NotApplicable("the target names no image, or no commands in it")
		}
		return with(func(ctx context.Context, s *subject) error {
			if err := s.pull(ctx); err != nil {
				return err
			}
			return look(ctx, s)
		})(ctx, in)
	}
}

func (s *subject) pull(ctx context.Context) error {
	image := &runtimeapi.ImageSpec{Image: s.in.Target.Image}
	status, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: image})
	if err != nil {
		return fmt.Errorf("ImageStatus: %w", err)
	}
	if status.GetImage() != nil {
		return nil
	}
	if _, err := s.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: image}); err != nil {
		return fmt.Errorf("PullImage: %w", err)
	}
	return nil
}

// create makes a sandbox with one container in it.
func (s *subject) create(ctx context.Context, command []string) (id string, err error) {
	config := s.sandbox("pod")
	sandbox, err := s.run(ctx, config)
	if err != nil {
		return "", err
	}
	resp, err := s.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox, SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
			Image:    &runtimeapi.ImageSpec{Image: s.in.Target.Image}, Command: command, LogPath: logName,
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
			}},
		},
	})
	if err != nil {
		return "", fmt.Errorf("CreateContainer: %w", err)
	}
	return resp.GetContainerId(), nil
}

func (s *subject) startContainer(ctx context.Context, id string) error {
	if _, err := s.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	return nil
}

func (s *subject) container(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	resp, err := s.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, fmt.Errorf("ContainerStatus: %w", err)
	}
	return resp.GetStatus(), nil
}

// exited waits until the container is shown as exited.
func (s *subject) exited(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	const want = runtimeapi.ContainerState_CONTAINER_EXITED
	for late := time.Now().Add(endTime); ; time.Sleep(5 * time.Millisecond) {
		st, err := s.container(ctx, id)
		if err != nil || st.GetState() == want {
			return st, err
		}
		if time.Now().After(late) || ctx.Err() != nil {
			return nil, fmt.Errorf("ContainerStatus shows %v after %v, want %v", st.GetState(), endTime, want)
		}
	}
}

func checkContainerIdempotent(ctx context.Context, s *subject) error {
	id, err := s.create(ctx, s.in.Target.Sleep)
	if err != nil {
		return err
	}
	if err := s.startContainer(ctx, id); err != nil {
		return err
	}
	for i := range 3 {
		if _, err := s.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
			return fmt.Errorf("StopContainer, call %d: %w", i+1, err)
		}
	}
	if _, err := s.exited(ctx, id); err != nil {
		return err
	}
	for i := range 3 {
		if _, err := s.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			return fmt.Errorf("RemoveContainer, call %d: %w", i+1, err)
		}
	}
	if _, err := s.container(ctx, id); err == nil {
		return errors.New("ContainerStatus of a removed container succeeded, want an error")
	}
	return nil
}

func checkExitCode(ctx context.Context, s *subject) error {
	id, err := s.create(ctx, s.in.Target.Fail)
	if err != nil {
		return err
	}
	st, err := s.container(ctx, id)
	if err != nil {
		return err
	}
	if st.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED || st.GetImageRef() == "" {
		return fmt.Errorf("after CreateContainer: state %v, image ref %q; want created, and a ref", st.GetState(), st.GetImageRef())
	}
	if err := s.startContainer(ctx, id); err != nil {
		return err
	}
	st, err = s.exited(ctx, id)
	if err != nil {
		return err
	}
	if st.GetExitCode() != 7 {
		return fmt.Errorf("exit code %d, want 7, with which %q ends", st.GetExitCode(), s.in.Target.Fail)
	}
	// Runtimes take the two times at different places: a program that ends at
	// once may have finished a little before it started.
	if st.GetStartedAt() == 0 || st.GetFinishedAt() == 0 {
		return fmt.Errorf("started at %d, finished at %d: want both times", st.GetStartedAt(), st.GetFinishedAt())
	}
	return nil
}

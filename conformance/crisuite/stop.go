package crisuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func stopRules() []rule {
	return []rule{
		must("CRI-STOP-001", "asks a container to end before it kills it, and reports the code it chose",
			"StopContainer", "StopContainer stops a running container with a grace period (i.e., timeout).", checkGraceful, Containers),
		heavy(must("CRI-STOP-002", "kills a container whose time is up",
			"StopContainer", "The runtime must forcibly kill the container after the grace period is reached.", checkGraceOver, Containers)),
		must("CRI-STOP-003", "kills a container at once without a grace period",
			"StopContainerRequest", "Default: 0 (forcibly terminate the container immediately)", checkNoGrace, Containers),
		relied("CRI-STOP-004", "asks with the image's stop signal",
			"killContainer", "Images name the signal that their program understands as the wish to end.", checkImageSignal, Isolation, Pull),
		must("CRI-STOP-005", "asks with the container's own stop signal, and reports it",
			"ContainerConfig", "The custom stop signal for the container", checkOwnSignal, Isolation, StopSignals),
		heavy(relied("CRI-STOP-006", "hastens a stop in flight when another one has less patience",
			"killPod", "The kubelet shortens the grace period of a Pod that is deleted again, and calls StopContainer with the new one.", checkHasten, Containers)),
		facto("CRI-STOP-007", "ends a container's other processes with its first",
			"container life", "Nothing of a container runs on behind its end.", checkChildrenEnd, Containers, HostProcesses),
		relied("CRI-STOP-008", "has ended a container when StopContainer returns",
			"killPod", "The kubelet stops the sandbox and frees the Pod's volumes when StopContainer has returned.", checkStopWaits, Containers),
	}
}

// trapping starts a container that handles the stop signal as trap says.
func (s *subject) trapping(ctx context.Context, trap string) (*box, error) {
	b, err := s.box(ctx, "do", do("echo ready", trap))
	if err != nil {
		return nil, err
	}
	return b, b.says(ctx, "ready")
}

func (b *box) stoppedWith(ctx context.Context, grace int64, want int32) error {
	if err := b.stop(ctx, grace); err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err == nil && st.GetExitCode() != want {
		return fmt.Errorf("behind StopContainer with %d s of grace the exit code is %d, want %d", grace, st.GetExitCode(), want)
	}
	return err
}

func checkGraceful(ctx context.Context, s *subject) error {
	b, err := s.trapping(ctx, "trap 9")
	if err != nil {
		return err
	}
	return b.stoppedWith(ctx, 10, 9)
}

func checkGraceOver(ctx context.Context, s *subject) error {
	b, err := s.trapping(ctx, "ignore-term")
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := b.stoppedWith(ctx, 1, 137); err != nil {
		return err
	}
	if took := time.Since(begin); took < 900*time.Millisecond {
		return fmt.Errorf("a container that has a second to end was killed after %v", took.Round(time.Millisecond))
	}
	if b, err = s.trapping(ctx, "trap --delay 2s 9"); err != nil {
		return err
	}
	if err := b.stoppedWith(ctx, 20, 9); err != nil {
		return fmt.Errorf("a program that needs two seconds of twenty to end: %w", err)
	}
	return nil
}

func checkNoGrace(ctx context.Context, s *subject) error {
	b, err := s.trapping(ctx, "ignore-term")
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := b.stoppedWith(ctx, 0, 137); err != nil {
		return err
	}
	if took := time.Since(begin); took > 2*time.Second {
		return fmt.Errorf("StopContainer without grace took %v", took.Round(time.Millisecond))
	}
	return nil
}

func checkImageSignal(ctx context.Context, s *subject) error {
	image, err := s.present(ctx, signalImage)
	if err != nil {
		return err
	}
	b, err := s.box(ctx, "trap --signal USR1 9", func(c *runtimeapi.ContainerConfig) { c.Image.Image = image })
	if err != nil {
		return err
	}
	if err := b.says(ctx, "waiting for USR1"); err != nil {
		return err
	}
	return b.stoppedWith(ctx, 5, 9)
}

func checkOwnSignal(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "trap --signal HUP 9", func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_SIGHUP })
	if err != nil {
		return err
	}
	if err := b.says(ctx, "waiting for HUP"); err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	if st.GetStopSignal() != runtimeapi.Signal_SIGNAL_SIGHUP {
		return fmt.Errorf("ContainerStatus: stop signal %v, want SIGHUP", st.GetStopSignal())
	}
	return b.stoppedWith(ctx, 5, 9)
}

func checkHasten(ctx context.Context, s *subject) error {
	b, err := s.trapping(ctx, "ignore-term")
	if err != nil {
		return err
	}
	slow := make(chan error, 1)
	go func() { slow <- b.stop(ctx, 20) }()
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	if err := b.stop(ctx, 0); err != nil {
		return fmt.Errorf("beside another one: %w", err)
	}
	if err := errors.Join(b.in(ctx, runtimeapi.ContainerState_CONTAINER_EXITED), <-slow); err != nil {
		return err
	}
	if took := time.Since(begin); took > 3*time.Second {
		return fmt.Errorf("StopContainer without grace took %v beside one with 20 s", took.Round(time.Millisecond))
	}
	return nil
}

func checkChildrenEnd(ctx context.Context, s *subject) error {
	b, err := s.watched(ctx, "do", do("leave ignore-term", "echo left", "sleep 200ms"))
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, time.Second, b.ended)
}

func checkStopWaits(ctx context.Context, s *subject) error {
	b, err := s.trapping(ctx, "trap --delay 200ms 0")
	if err == nil {
		err = b.witness(ctx)
	}
	if err != nil {
		return err
	}
	if err := b.stop(ctx, 10); err != nil {
		return err
	}
	if err := b.in(ctx, runtimeapi.ContainerState_CONTAINER_EXITED); err != nil {
		return fmt.Errorf("when StopContainer has returned: %w", err)
	}
	return b.ended()
}

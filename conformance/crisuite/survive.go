package crisuite

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkSurvival(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	before, err := b.pid(ctx)
	if err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	if err := b.alive(ctx); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	after, err := b.pid(ctx)
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("the container's process was %d, and is %d", before, after)
	}
	if err := b.stoppedWith(ctx, 0, 137); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	return nil
}

func checkExitWhileDown(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "do", do("sleep 200ms", "exit 7"))
	if err != nil {
		return err
	}
	s.process.Kill()
	if err := until(ctx, endTime, b.ended); err != nil {
		return err
	}
	if err := s.restart(ctx); err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err == nil && st.GetExitCode() != 7 {
		return fmt.Errorf("a container that ended with code 7 while the runtime was down has code %d, reason %q", st.GetExitCode(), st.GetReason())
	}
	return err
}

func checkLogWhileDown(ctx context.Context, s *subject) error {
	const count = 400
	b, err := s.box(ctx, fmt.Sprintf("lines --interval 2ms %d", count))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "10\n"); err != nil {
		return err
	}
	s.process.Kill()
	time.Sleep(300 * time.Millisecond)
	if err := s.restart(ctx); err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	return until(ctx, logTime, func() error { return b.complete(count, 0) })
}

func checkImagesSurvive(ctx context.Context, s *subject) error {
	_, ref, id, err := s.own(ctx)
	if err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	im, err := s.image(ctx, ref)
	if err == nil && im == nil {
		return fmt.Errorf("after the SIGKILL the image %q is not there", id)
	}
	return err
}

func checkUpdateSurvives(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	if err := b.update(ctx, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 * mib, CpuPeriod: fullPeriod, CpuQuota: 45_000}); err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	if got := st.GetResources().GetLinux().GetMemoryLimitInBytes(); got != 96*mib {
		return fmt.Errorf("after the SIGKILL ContainerStatus has a limit of %d bytes, want %d", got, 96*mib)
	}
	return b.hasMemory(ctx, 96*mib)
}

func checkExecAfterCrash(ctx context.Context, s *subject) error {
	b, err := s.sleeping(ctx)
	if err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	out, err := b.exec(ctx, "echo again")
	if err == nil && out != "again\n" {
		return fmt.Errorf("after the SIGKILL a command printed %q", out)
	}
	return err
}

package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
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
	const life = 400 * time.Millisecond
	b, err := s.watched(ctx, "do", do("sleep "+life.String(), "exit 7"))
	if err != nil {
		return err
	}
	s.process.Kill()
	if s.hidden() {
		time.Sleep(2 * life)
	}
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

func checkKilledDuringExec(ctx context.Context, s *subject) error {
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) { b, err = s.watched(ctx, forever); return err },
		call:    func() error { _, err := b.exec(ctx, "sleep 30ms"); return err },
		look: func() error {
			out, err := b.exec(ctx, "echo again")
			if err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			if out != "again\n" {
				return fmt.Errorf("the next command printed %q", out)
			}
			if err := b.alive(ctx); err != nil {
				return err
			}
			return until(ctx, time.Second, func() error { return b.startedOnce(ctx) })
		},
	})
}

// checkKilledDuringUpdate allows the container's cgroup and its status to disagree until
// the kubelet has retried: each has the old limit or the new one.
func checkKilledDuringUpdate(ctx context.Context, s *subject) error {
	const before, after = 64 * mib, 96 * mib
	var b *box
	update := func() error {
		return b.update(ctx, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: after, CpuPeriod: fullPeriod, CpuQuota: 45_000})
	}
	shown := func() (int64, error) {
		st, err := b.status(ctx)
		return st.GetResources().GetLinux().GetMemoryLimitInBytes(), err
	}
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) { b, err = s.limited(ctx); return err },
		call:    update,
		look: func() error {
			if got, err := shown(); err != nil || got != before && got != after {
				return fmt.Errorf("ContainerStatus has a limit of %d bytes: %w", got, errors.Join(err, fmt.Errorf("want %d or %d", before, after)))
			}
			if b.hasMemory(ctx, before) != nil {
				if err := b.hasMemory(ctx, after); err != nil {
					return err
				}
			}
			if err := update(); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			if got, err := shown(); err != nil || got != after {
				return fmt.Errorf("tried again, and ContainerStatus has a limit of %d bytes: %w", got, errors.Join(err, fmt.Errorf("want %d", after)))
			}
			return errors.Join(b.hasMemory(ctx, after), b.hasQuota(ctx, "45000"))
		},
	})
}

func checkKilledDuringSandboxUpdate(ctx context.Context, s *subject) error {
	var p *pod
	update := func() error { return p.limit(ctx, 512) }
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) { p, err = s.pod(ctx); return err },
		call: func() error {
			err := update()
			if errors.Is(err, cri.ErrUnimplemented) {
				return conformance.NotApplicable("the runtime does not implement UpdatePodSandboxResources")
			}
			return err
		},
		look: func() error {
			if ready, err := s.ready(ctx, p); err != nil || !ready {
				return err // the sandbox ended with the runtime
			}
			if err := update(); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			return s.oneReady(ctx)
		},
	})
}

func checkKilledDuringReopen(ctx context.Context, s *subject) error {
	const count = 300
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) {
			if b, err = s.box(ctx, "do", do(fmt.Sprintf("lines --interval 2ms %d", count), forever)); err != nil {
				return err
			}
			if err = b.says(ctx, "10\n"); err != nil {
				return err
			}
			return os.Rename(b.logFile(), b.logFile()+".0")
		},
		call: func() error { return b.reopen(ctx) },
		look: func() error {
			if err := b.reopen(ctx); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			if err := until(ctx, endTime, func() error { return b.complete(count, 1) }); err != nil {
				return err
			}
			if err := b.stop(ctx, 0); err != nil {
				return err
			}
			if _, err := b.exited(ctx); err != nil {
				return err
			}
			return until(ctx, logTime, func() error { return b.complete(count, 1) })
		},
	})
}

func checkKilledDuringRemoveImage(ctx context.Context, s *subject) error {
	ref := ""
	return s.rounds(ctx, cut{
		prepare: func(round int) error {
			ref = s.images.ref(fmt.Sprintf("%s%s-%d:v1", uniqueRepo, s.mark, round))
			_, err := s.pull(ctx, ref)
			return err
		},
		call: func() error { return s.removeImage(ctx, ref) },
		look: func() error {
			if err := s.removeImage(ctx, ref); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			if err := s.without(ctx, ref); err != nil {
				return err
			}
			return s.whole(ctx, ref)
		},
	})
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

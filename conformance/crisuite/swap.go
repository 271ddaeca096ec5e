package crisuite

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

// swapPod runs a Pod on a machine whose cgroups limit swap. The rule does not apply to
// others.
func (s *subject) swapPod(ctx context.Context) (*pod, error) {
	_, in, err := s.cgroupParent(ctx)
	if err != nil {
		return nil, err
	}
	if !limitsSwap() {
		return nil, conformance.NotApplicable("the cgroups of this machine do not limit swap (CONFIG_SWAP, swapaccount)")
	}
	return s.pod(ctx, in)
}

// hasSwap returns nil when the container's cgroup is limited to as much swap as is left
// of both beyond the memory.
func (b *box) hasSwap(ctx context.Context, memory, both int64) error {
	want := both
	if !hybrid() {
		want -= memory // cgroup v2 limits swap by itself
	}
	got, err := b.cgroupValue(ctx, "memory.memsw.limit_in_bytes", "memory.swap.max")
	if err == nil && got != strconv.FormatInt(want, 10) {
		return fmt.Errorf("the limit of the container's cgroup is %s bytes of swap, want %d", got, want)
	}
	return err
}

func checkSwapLimit(ctx context.Context, s *subject) error {
	p, err := s.swapPod(ctx)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 64*mib, 96*mib
	}))
	if err != nil {
		return err
	}
	if err := errors.Join(b.hasMemory(ctx, 64*mib), b.hasSwap(ctx, 64*mib, 96*mib)); err != nil {
		return err
	}
	if err := b.update(ctx, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 * mib, MemorySwapLimitInBytes: 192 * mib}); err != nil {
		return err
	}
	if err := errors.Join(b.hasMemory(ctx, 128*mib), b.hasSwap(ctx, 128*mib, 192*mib)); err != nil {
		return fmt.Errorf("behind an update: %w", err)
	}
	return nil
}

// checkUnified uses the file by which the kubelet's LimitedSwap grants swap.
func checkUnified(ctx context.Context, s *subject) error {
	if hybrid() {
		return conformance.NotApplicable("the controllers of this machine are on cgroup v1")
	}
	p, err := s.swapPod(ctx)
	if err != nil {
		return err
	}
	const file = "memory.swap.max"
	b, err := p.start(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.Unified = 64*mib, map[string]string{file: strconv.Itoa(32 * mib)}
	}))
	if err != nil {
		return err
	}
	got, err := b.cgroupValue(ctx, file)
	if err == nil && got != strconv.Itoa(32*mib) {
		return fmt.Errorf("%s of the container's cgroup is %s, want %d", file, got, 32*mib)
	}
	return err
}

func checkSwapStats(ctx context.Context, s *subject) error {
	p, err := s.swapPod(ctx)
	if err != nil {
		return err
	}
	const granted = 32 * mib
	b, err := p.start(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 64*mib, 64*mib+granted
	}))
	if err != nil {
		return err
	}
	return until(ctx, statsPatient, func() error {
		st, err := b.stats(ctx)
		if err != nil {
			return err
		}
		swap := st.GetSwap()
		used, left := swap.GetSwapUsageBytes(), swap.GetSwapAvailableBytes()
		if used == nil || left == nil || used.GetValue()+left.GetValue() != granted {
			return fmt.Errorf("a container that may use %d bytes of swap is reported with the swap {%v}", granted, swap)
		}
		return recent(swap.GetTimestamp())
	})
}

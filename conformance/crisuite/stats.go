package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func statsRules() []rule {
	return []rule{
		heavy(must("CRI-STATS-001", "reports the memory that a container uses",
			"MemoryUsage", "The amount of working set memory in bytes.", checkMemoryStats, Stats, Resources)),
		heavy(must("CRI-STATS-002", "reports the processor time that a container used",
			"CpuUsage", "Cumulative CPU usage (sum across all cores) since object creation.", checkCPUStats, Stats, HostProcesses)),
		relied("CRI-STATS-003", "reports stats with the container's metadata, labels and annotations, and times",
			"stats provider", "The kubelet finds out by labels and names whose stats they are, and computes rates from the times.", checkStatsAttributes, Stats),
		must("CRI-STATS-004", "reports the stats of all running containers that a filter selects",
			"ContainerStatsFilter", "ContainerStatsFilter is used to filter containers. All those fields are combined with 'AND'", checkStatsFilter, Stats),
		must("CRI-STATS-005", "answers ContainerStats of a container that never was with an error",
			"ContainerStats", "If the container does not exist, the call returns an error.", checkStatsUnknown, Stats),
		heavy(relied("CRI-STATS-006", "reports what a container has written to its own layer",
			"eviction", "The kubelet evicts Pods for the storage that their containers write.", checkWritable, Stats, Isolation)),
		heavy(relied("CRI-STATS-007", "reports a Pod's usage, with that of its containers, if it reports Pods at all",
			"stats provider", "A Pod's usage is what eviction ranks it by: it is no less than what its containers use.", checkPodStats, Stats)),
		must("CRI-STATS-008", "describes every metric that it gives, with as many labels as it says",
			"ListMetricDescriptors", "Put differently, if ListPodSandboxMetrics references a name that is not described in the initial ListMetricDescriptors call, then the metric will not be broadcasted.", checkMetrics, Stats),
		relied("CRI-STATS-009", "reports later stats with a later time, and what was used in between",
			"stats provider", "The kubelet asks at intervals, and takes the difference of two answers for what was used between their times.", checkStatsGrow, Stats),
		must("CRI-STATS-010", "reports the swap that a container uses, and how much more it may",
			"SwapUsage", "Available swap for use. This is defined as the swap limit - swapUsageBytes.", checkSwapStats, Stats, Resources, Swap),
	}
}

func (b *box) stats(ctx context.Context) (*runtimeapi.ContainerStats, error) {
	resp, err := b.s.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: b.id})
	if err != nil {
		return nil, fmt.Errorf("ContainerStats: %w", err)
	}
	return resp.GetStats(), nil
}

func checkMemoryStats(ctx context.Context, s *subject) error {
	const eaten = 48 * mib
	b, err := s.box(ctx, fmt.Sprintf("eat %d", eaten), limit(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 128 * mib }))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "holding"); err != nil {
		return err
	}
	return until(ctx, statsPatient, func() error {
		st, err := b.stats(ctx)
		if err != nil {
			return err
		}
		working := st.GetMemory().GetWorkingSetBytes().GetValue()
		if working < eaten || working > 2*eaten {
			return fmt.Errorf("a container that holds %d bytes has a working set of %d", eaten, working)
		}
		return recent(st.GetMemory().GetTimestamp())
	})
}

// checkCPUStats lets a container burn CPU until the kernel has counted enough, and then
// expects a figure between what was used by then and what is used now.
func checkCPUStats(ctx context.Context, s *subject) error {
	const burnt, slack = 300 * time.Millisecond, 2 * time.Second
	b, err := s.box(ctx, "burn forever")
	if err != nil {
		return err
	}
	pid, err := b.pid(ctx)
	if err != nil {
		return err
	}
	var truth time.Duration
	err = until(ctx, statsPatient, func() (err error) {
		if truth, err = processTime(pid); err == nil && truth < burnt {
			return fmt.Errorf("the machine gave a program that burns no more than %v", truth)
		}
		return err
	})
	if err != nil {
		return err
	}
	return until(ctx, statsPatient, func() error {
		st, err := b.stats(ctx)
		if err != nil {
			return err
		}
		now, err := processTime(pid)
		if err != nil {
			return err
		}
		used := time.Duration(st.GetCpu().GetUsageCoreNanoSeconds().GetValue())
		if used < truth-50*time.Millisecond || used > now+slack {
			return fmt.Errorf("a container whose process used between %v and %v is reported with %v", truth, now, used)
		}
		return recent(st.GetCpu().GetTimestamp())
	})
}

// processTime returns the CPU time of a process, from its threads' schedstat files.
func processTime(pid int) (time.Duration, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(data), &ns); err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

func checkStatsAttributes(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever, func(c *runtimeapi.ContainerConfig) { c.Annotations = map[string]string{"a": "b"} })
	if err != nil {
		return err
	}
	st, err := b.stats(ctx)
	if err == nil {
		err = b.attributed(st)
	}
	if err != nil {
		return fmt.Errorf("ContainerStats: %w", err)
	}
	filter := &runtimeapi.ContainerStatsFilter{Id: b.id}
	listed, err := s.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("ListContainerStats: %w", err)
	}
	if err := exactly(statItems(listed.GetStats()), b.id); err != nil {
		return fmt.Errorf("ListContainerStats with filter %v: %w", filter, err)
	}
	if err := b.attributed(listed.GetStats()[0]); err != nil {
		return fmt.Errorf("ListContainerStats, which is the kubelet's call: %w", err)
	}
	return nil
}

// attributed returns nil when stats have the container's attributes and recent times.
func (b *box) attributed(st *runtimeapi.ContainerStats) error {
	a := st.GetAttributes()
	if a.GetId() != b.id || a.GetMetadata().GetName() != b.config.GetMetadata().GetName() || !contains(a.GetLabels(), b.config.GetLabels()) || !contains(a.GetAnnotations(), b.config.GetAnnotations()) {
		return fmt.Errorf("the attributes are %v, want id %q, name %q, labels %q and annotations %q", a, b.id, b.config.GetMetadata().GetName(), b.config.GetLabels(), b.config.GetAnnotations())
	}
	return errors.Join(recent(st.GetCpu().GetTimestamp()), recent(st.GetMemory().GetTimestamp()))
}

func checkStatsFilter(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	one, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	two, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	ended, err := p.start(ctx, "exit 0")
	if err != nil {
		return err
	}
	if _, err := ended.exited(ctx); err != nil {
		return err
	}
	for _, c := range []struct {
		filter *runtimeapi.ContainerStatsFilter
		want   []string
	}{
		{&runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}, []string{one.id, two.id}},
		{&runtimeapi.ContainerStatsFilter{Id: two.id, PodSandboxId: p.id}, []string{two.id}},
		{&runtimeapi.ContainerStatsFilter{LabelSelector: one.config.GetLabels(), PodSandboxId: p.id}, []string{one.id}},
		{&runtimeapi.ContainerStatsFilter{Id: one.id, PodSandboxId: unknownID}, nil},
	} {
		resp, err := s.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: c.filter})
		if err != nil {
			return fmt.Errorf("ListContainerStats: %w", err)
		}
		running := slices.DeleteFunc(statItems(resp.GetStats()), func(st item) bool { return st.id == ended.id }) // which may be listed
		if err := exactly(running, c.want...); err != nil {
			return fmt.Errorf("ListContainerStats with filter %v: %w", c.filter, err)
		}
	}
	return nil
}

// checkStatsGrow asks in both ways, because a runtime may answer one of them from a cache.
// How old an answer may be is the runtime's choice.
func checkStatsGrow(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "burn forever")
	if err != nil {
		return err
	}
	listed := func(ctx context.Context) (*runtimeapi.ContainerStats, error) {
		resp, err := s.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: b.id}})
		if err != nil {
			return nil, fmt.Errorf("ListContainerStats: %w", err)
		}
		if err := exactly(statItems(resp.GetStats()), b.id); err != nil {
			return nil, fmt.Errorf("ListContainerStats: %w", err)
		}
		return resp.GetStats()[0], nil
	}
	for _, way := range []struct {
		call string
		ask  func(context.Context) (*runtimeapi.ContainerStats, error)
	}{{"ContainerStats", b.stats}, {"ListContainerStats", listed}} {
		first, err := way.ask(ctx)
		if err != nil {
			return err
		}
		err = until(ctx, statsPatient, func() error {
			next, err := way.ask(ctx)
			if err != nil {
				return err
			}
			return grown(first, next)
		})
		if err != nil {
			return fmt.Errorf("%s of a container that burns processor time, asked for %v: %w", way.call, statsPatient, err)
		}
	}
	return nil
}

// grown returns nil when the later stats of a busy container are of a later time.
func grown(first, next *runtimeapi.ContainerStats) error {
	if was, is := first.GetCpu().GetTimestamp(), next.GetCpu().GetTimestamp(); is <= was {
		return fmt.Errorf("the time of the processor's use is %d, and was %d at first", is, was)
	}
	if was, is := first.GetMemory().GetTimestamp(), next.GetMemory().GetTimestamp(); is <= was {
		return fmt.Errorf("the time of the memory's use is %d, and was %d at first", is, was)
	}
	if was, is := first.GetCpu().GetUsageCoreNanoSeconds().GetValue(), next.GetCpu().GetUsageCoreNanoSeconds().GetValue(); is <= was {
		return fmt.Errorf("the container is reported with %d ns of processor time, and with %d at first", is, was)
	}
	return nil
}

func checkStatsUnknown(ctx context.Context, s *subject) error {
	if _, err := (&box{pod: &pod{s: s}, id: unknownID}).stats(ctx); err == nil {
		return errors.New("ContainerStats of a container that never was succeeded")
	}
	return nil
}

func checkWritable(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "do", do("write /data/x some-text", "echo written", forever))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "written"); err != nil {
		return err
	}
	return until(ctx, statsPatient, func() error {
		st, err := b.stats(ctx)
		if err != nil {
			return err
		}
		w := st.GetWritableLayer()
		if w.GetUsedBytes().GetValue() == 0 || w.GetFsId().GetMountpoint() == "" {
			return fmt.Errorf("a container that has written is reported with the layer %v", w)
		}
		return recent(w.GetTimestamp())
	})
}

func checkPodStats(ctx context.Context, s *subject) error {
	_, err := s.Runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: unknownID})
	if err == nil {
		return errors.New("PodSandboxStats of a sandbox that never was succeeded")
	}
	if errors.Is(err, cri.ErrUnimplemented) {
		return unimplemented("PodSandboxStats", err)
	}
	_, in, err := s.cgroupParent(ctx)
	if err != nil {
		return err
	}
	p, err := s.pod(ctx, in)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, "do", do("burn 100ms", "echo burnt", forever))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "burnt"); err != nil {
		return err
	}
	one, err := b.stats(ctx)
	if err != nil {
		return err
	}
	var st *runtimeapi.PodSandboxStats
	err = until(ctx, statsPatient, func() error {
		resp, err := s.Runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: b.pod.id})
		if err != nil {
			return fmt.Errorf("PodSandboxStats: %w", err)
		}
		st = resp.GetStats()
		return noLess(st.GetLinux(), one)
	})
	if err != nil {
		return err
	}
	if st.GetAttributes().GetId() != b.pod.id || st.GetAttributes().GetMetadata().GetUid() != b.pod.config.GetMetadata().GetUid() {
		return fmt.Errorf("PodSandboxStats has the attributes %v", st.GetAttributes())
	}
	if err := exactly(statItems(st.GetLinux().GetContainers()), b.id); err != nil {
		return fmt.Errorf("PodSandboxStats: %w", err)
	}
	list, err := s.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: b.pod.id}})
	if err != nil {
		return fmt.Errorf("ListPodSandboxStats: %w", err)
	}
	if len(list.GetStats()) != 1 || list.GetStats()[0].GetAttributes().GetId() != b.pod.id {
		return fmt.Errorf("ListPodSandboxStats of one Pod has %v", list.GetStats())
	}
	return nil
}

// noLess returns nil when a Pod is reported with at least what its only container used
// before. The memory of a sleeping one changes little.
func noLess(pod *runtimeapi.LinuxPodSandboxStats, of *runtimeapi.ContainerStats) error {
	cpu, least := pod.GetCpu().GetUsageCoreNanoSeconds().GetValue(), of.GetCpu().GetUsageCoreNanoSeconds().GetValue()
	if cpu == 0 || cpu < least {
		return fmt.Errorf("PodSandboxStats has %d ns of processor time, and the container %d", cpu, least)
	}
	memory, least := pod.GetMemory().GetWorkingSetBytes().GetValue(), of.GetMemory().GetWorkingSetBytes().GetValue()
	if memory == 0 || memory < least/2 {
		return fmt.Errorf("PodSandboxStats has a working set of %d bytes, and the container %d", memory, least)
	}
	return errors.Join(recent(pod.GetCpu().GetTimestamp()), recent(pod.GetMemory().GetTimestamp()))
}

func checkMetrics(ctx context.Context, s *subject) error {
	described, err := s.Runtime.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		return unimplemented("ListMetricDescriptors", err)
	}
	labels := map[string]int{}
	for _, d := range described.GetDescriptors() {
		if labels[d.GetName()] = len(d.GetLabelKeys()); d.GetName() == "" {
			return fmt.Errorf("the descriptor %v has no name", d)
		}
	}
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	resp, err := s.Runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if errors.Is(err, cri.ErrUnimplemented) {
		return unimplemented("ListPodSandboxMetrics", err)
	}
	if err != nil {
		return fmt.Errorf("ListPodSandboxMetrics: %w", err)
	}
	found := false
	for _, pod := range resp.GetPodMetrics() {
		found = found || pod.GetPodSandboxId() == b.pod.id
		all := pod.GetMetrics()
		for _, c := range pod.GetContainerMetrics() {
			all = append(all, c.GetMetrics()...)
		}
		for _, m := range all {
			if n, known := labels[m.GetName()]; !known || n != len(m.GetLabelValues()) {
				return fmt.Errorf("the metric %q has %d label values, and its description %d (%v)", m.GetName(), len(m.GetLabelValues()), n, known)
			}
		}
	}
	if !found {
		return errors.New("ListPodSandboxMetrics has nothing of the Pod " + strings.TrimSpace(b.pod.id))
	}
	return nil
}

package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
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
			"CpuUsage", "Cumulative CPU usage (sum across all cores) since object creation.", checkCPUStats, Stats)),
		must("CRI-STATS-003", "reports stats with the container's metadata, labels and annotations, and times",
			"ContainerAttributes", "ContainerAttributes provides basic information of the container.", checkStatsAttributes, Stats),
		must("CRI-STATS-004", "reports the stats of all running containers that a filter selects",
			"ContainerStatsFilter", "ContainerStatsFilter is used to filter containers. All those fields are combined with 'AND'", checkStatsFilter, Stats),
		must("CRI-STATS-005", "answers ContainerStats of a container that never was with an error",
			"ContainerStats", "If the container does not exist, the call returns an error.", checkStatsUnknown, Stats),
		heavy(relied("CRI-STATS-006", "reports what a container has written to its own layer",
			"eviction", "The kubelet evicts Pods for the storage that their containers write.", checkWritable, Stats, Isolation)),
		must("CRI-STATS-007", "reports a Pod's usage, if it reports Pods at all",
			"PodSandboxStats", "PodSandboxStats returns stats of the pod sandbox.", checkPodStats, Stats),
		must("CRI-STATS-008", "describes every metric that it gives, with as many labels as it says",
			"ListMetricDescriptors", "Put differently, if ListPodSandboxMetrics references a name that is not described in the initial ListMetricDescriptors call, then the metric will not be broadcasted.", checkMetrics, Stats),
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

// checkCPUStats compares the two ends of a time that the container burns with the kernel's
// own count.
func checkCPUStats(ctx context.Context, s *subject) error {
	const burnt = 300 * time.Millisecond
	b, err := s.box(ctx, "do", do("burn 600ms", "echo burnt", forever))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "burnt"); err != nil {
		return err
	}
	pid, err := b.pid(ctx)
	if err != nil {
		return err
	}
	truth, err := processTime(pid)
	if err != nil {
		return err
	}
	if truth < burnt {
		return nil // the machine had no time for the container: there is nothing to compare
	}
	return until(ctx, statsPatient, func() error {
		st, err := b.stats(ctx)
		if err != nil {
			return err
		}
		used := time.Duration(st.GetCpu().GetUsageCoreNanoSeconds().GetValue())
		if used < truth-50*time.Millisecond || used > truth+2*time.Second {
			return fmt.Errorf("a container whose process used %v is reported with %v", truth, used)
		}
		return recent(st.GetCpu().GetTimestamp())
	})
}

// processTime returns the processor time of a process, from proc_pid_schedstat.
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
	if err != nil {
		return err
	}
	a := st.GetAttributes()
	if a.GetId() != b.id || a.GetMetadata().GetName() != b.config.GetMetadata().GetName() || !contains(a.GetLabels(), b.config.GetLabels()) || !contains(a.GetAnnotations(), b.config.GetAnnotations()) {
		return fmt.Errorf("ContainerStats has the attributes %v", a)
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
		if err := exactly(statItems(resp.GetStats()), c.want...); err != nil {
			return fmt.Errorf("ListContainerStats with filter %v: %w", c.filter, err)
		}
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
	b, err := s.box(ctx, "do", do("burn 100ms", "echo burnt", forever))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "burnt"); err != nil {
		return err
	}
	resp, err := s.Runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: b.pod.id})
	if err != nil {
		return unimplemented("PodSandboxStats", err)
	}
	st := resp.GetStats()
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
	if _, err := s.Runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: unknownID}); err == nil {
		return errors.New("PodSandboxStats of a sandbox that never was succeeded")
	}
	return nil
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

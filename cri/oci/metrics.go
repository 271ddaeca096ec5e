package oci

import (
	"context"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// The labels of every series, with the names that dashboards for cAdvisor use.
const (
	labelContainer = "container"
	labelID        = "id"
	labelImage     = "image"
	labelName      = "name"
	labelNamespace = "namespace"
	labelPod       = "pod"
)

// series is one metric, under its cAdvisor name.
type series struct {
	name, help string
	gauge      bool
	extra      []string // its further labels
}

// containerSeries returns the series of a container's cgroup and of the Pod's.
func containerSeries() []series {
	// The samples of several devices or kinds differ in these labels.
	byDevice, byFailure := []string{"device"}, []string{"failure_type"}
	return []series{
		{name: "container_cpu_usage_seconds_total", help: "CPU time used, in seconds."},
		{name: "container_cpu_user_seconds_total", help: "CPU time used outside of the kernel, in seconds."},
		{name: "container_cpu_system_seconds_total", help: "CPU time used in the kernel, in seconds."},
		{name: "container_cpu_cfs_periods_total", help: "Periods of the CPU quota in which something ran."},
		{name: "container_cpu_cfs_throttled_periods_total", help: "Periods of the CPU quota in which it was used up."},
		{name: "container_cpu_cfs_throttled_seconds_total", help: "Time spent waiting for the next period, in seconds."},
		{name: "container_memory_usage_bytes", help: "Memory charged, in bytes.", gauge: true},
		{name: "container_memory_working_set_bytes", help: "Memory charged less the page cache that is easily dropped, in bytes.", gauge: true},
		{name: "container_memory_rss", help: "Anonymous memory, in bytes.", gauge: true},
		{name: "container_memory_cache", help: "Page cache, in bytes.", gauge: true},
		{name: "container_memory_mapped_file", help: "Page cache that is mapped, in bytes.", gauge: true},
		{name: "container_memory_kernel_usage", help: "Memory of the kernel's own, in bytes.", gauge: true},
		{name: "container_memory_swap", help: "Swap used, in bytes.", gauge: true},
		{name: "container_memory_max_usage_bytes", help: "The most memory that was ever charged, in bytes.", gauge: true},
		{name: "container_memory_failcnt", help: "Times that memory ran into its limit."},
		{name: "container_memory_failures_total", help: "Page faults.", extra: byFailure},
		{name: "container_oom_events_total", help: "Processes that the kernel killed for memory."},
		{name: "container_fs_reads_total", help: "Reads from a device.", extra: byDevice},
		{name: "container_fs_writes_total", help: "Writes to a device.", extra: byDevice},
		{name: "container_fs_reads_bytes_total", help: "Bytes read from a device.", extra: byDevice},
		{name: "container_fs_writes_bytes_total", help: "Bytes written to a device.", extra: byDevice},
		{name: "container_blkio_device_usage_total", help: "Bytes that went to and came from a device.", extra: []string{"device", "major", "minor", "operation"}},
		{name: "container_fs_usage_bytes", help: "What was written to its root file system and is there, in bytes.", gauge: true, extra: byDevice},
		{name: "container_fs_limit_bytes", help: "The size of the file system that it writes to, in bytes.", gauge: true, extra: byDevice},
		{name: "container_fs_inodes_total", help: "Inodes of that file system.", gauge: true, extra: byDevice},
		{name: "container_fs_inodes_free", help: "Inodes of that file system that are not used.", gauge: true, extra: byDevice},
		{name: "container_processes", help: "Processes.", gauge: true},
		{name: "container_threads", help: "Threads.", gauge: true},
		{name: "container_threads_max", help: "The limit of threads, 0 for none.", gauge: true},
		{name: "container_file_descriptors", help: "Open file descriptors.", gauge: true},
		{name: "container_sockets", help: "Open sockets.", gauge: true},
		{name: "container_pressure_cpu_waiting_seconds_total", help: "Time in which some task waited for a CPU, in seconds."},
		{name: "container_pressure_cpu_stalled_seconds_total", help: "Time in which all tasks waited for a CPU, in seconds."},
		{name: "container_pressure_memory_waiting_seconds_total", help: "Time in which some task waited for memory, in seconds."},
		{name: "container_pressure_memory_stalled_seconds_total", help: "Time in which all tasks waited for memory, in seconds."},
		{name: "container_pressure_io_waiting_seconds_total", help: "Time in which some task waited for a device, in seconds."},
		{name: "container_pressure_io_stalled_seconds_total", help: "Time in which all tasks waited for a device, in seconds."},
		{name: "container_last_seen", help: "When this was true, in seconds since 1970.", gauge: true},
		{name: "container_start_time_seconds", help: "When it was started, in seconds since 1970.", gauge: true},
		{name: "container_spec_cpu_period", help: "The period of the CPU quota, in microseconds.", gauge: true},
		{name: "container_spec_cpu_quota", help: "CPU time allowed in a period, in microseconds.", gauge: true},
		{name: "container_spec_cpu_shares", help: "The weight of its CPU time.", gauge: true},
		{name: "container_spec_memory_limit_bytes", help: "The limit of memory, 0 for none.", gauge: true},
		{name: "container_spec_memory_swap_limit_bytes", help: "The limit of swap, 0 for none.", gauge: true},
	}
}

// networkSeries returns the series of a Pod's interfaces.
func networkSeries() []series {
	byInterface := []string{"interface"}
	return []series{
		{name: "container_network_receive_bytes_total", help: "Bytes received.", extra: byInterface},
		{name: "container_network_receive_packets_total", help: "Packets received.", extra: byInterface},
		{name: "container_network_receive_packets_dropped_total", help: "Packets dropped that were to be received.", extra: byInterface},
		{name: "container_network_receive_errors_total", help: "Errors in receiving.", extra: byInterface},
		{name: "container_network_transmit_bytes_total", help: "Bytes sent.", extra: byInterface},
		{name: "container_network_transmit_packets_total", help: "Packets sent.", extra: byInterface},
		{name: "container_network_transmit_packets_dropped_total", help: "Packets dropped that were to be sent.", extra: byInterface},
		{name: "container_network_transmit_errors_total", help: "Errors in sending.", extra: byInterface},
	}
}

// metrics returns the time series in the form of the SDK.
func (r *Runtime) metrics() *cri.Metrics {
	m := &cri.Metrics{Sandbox: r.sandboxMetrics, Container: r.containerMetrics}
	for _, s := range append(containerSeries(), networkSeries()...) {
		keys := []string{labelContainer, labelID, labelImage, labelName, labelNamespace, labelPod}
		keys = append(keys, s.extra...)
		slices.Sort(keys)
		m.Descriptors = append(m.Descriptors, &runtimeapi.MetricDescriptor{Name: s.name, Help: s.help, LabelKeys: keys})
	}
	return m
}

// samples collects samples that have the same labels except for the extra ones.
type samples struct {
	labels map[string]string
	known  map[string]series
	list   []cri.Sample
}

func newSamples(s *cri.Sandbox, own map[string]string) *samples {
	meta := s.Config.GetMetadata()
	out := &samples{labels: map[string]string{labelNamespace: meta.GetNamespace(), labelPod: meta.GetName()}, known: map[string]series{}}
	for k, v := range own {
		out.labels[k] = v
	}
	for _, one := range append(containerSeries(), networkSeries()...) {
		out.known[one.name] = one
	}
	return out
}

// add adds one sample. extra are the values of the series' further labels.
func (s *samples) add(name string, v uint64, extra ...string) {
	of := s.known[name]
	labels := s.labels
	if len(extra) > 0 {
		labels = maps.Clone(s.labels)
		for i, key := range of.extra {
			labels[key] = extra[i]
		}
	}
	s.list = append(s.list, cri.Sample{Name: name, Labels: labels, Value: v, Gauge: of.gauge})
}

func (r *Runtime) containerMetrics(_ context.Context, c *cri.Container) ([]cri.Sample, error) {
	cg := r.cgroupOf(c)
	s := newSamples(c.Sandbox, map[string]string{
		labelContainer: c.Config.GetMetadata().GetName(), labelID: cg, labelName: c.ID,
		labelImage: firstText(c.Config.GetImage().GetUserSpecifiedImage(), c.Config.GetImage().GetImage()),
	})
	if err := s.addCgroup(cg); err != nil {
		return nil, err
	}
	if err := r.addFileSystem(s, c); err != nil {
		return nil, err
	}
	if !c.StartedAt.IsZero() {
		s.add("container_start_time_seconds", uint64(c.StartedAt.Unix()))
	}
	limits := c.Config.GetLinux().GetResources()
	s.add("container_spec_cpu_period", uint64(max(limits.GetCpuPeriod(), 0)))
	if q := limits.GetCpuQuota(); q > 0 {
		s.add("container_spec_cpu_quota", uint64(q))
	}
	s.add("container_spec_cpu_shares", uint64(max(limits.GetCpuShares(), 0)))
	return s.list, nil
}

func (r *Runtime) sandboxMetrics(_ context.Context, sb *cri.Sandbox) ([]cri.Sample, error) {
	parent, _ := r.parentCgroup(sb)
	s := newSamples(sb, map[string]string{labelID: parent, labelName: sb.ID})
	counted, err := r.counters(sb)
	if err != nil {
		return nil, err
	}
	for name, c := range counted {
		for metric, v := range map[string]uint64{
			"receive_bytes": c.RxBytes, "receive_packets": c.RxPackets, "receive_packets_dropped": c.RxDropped, "receive_errors": c.RxErrors,
			"transmit_bytes": c.TxBytes, "transmit_packets": c.TxPackets, "transmit_packets_dropped": c.TxDropped, "transmit_errors": c.TxErrors,
		} {
			s.add("container_network_"+metric+"_total", v, name)
		}
	}
	if cgroup.Exists(parent) {
		if err := s.addCgroup(parent); err != nil {
			return nil, err
		}
	}
	s.add("container_start_time_seconds", uint64(sb.CreatedAt.Unix()))
	return s.list, nil
}

// addFileSystem adds the container's disk usage and the size of the file system.
func (r *Runtime) addFileSystem(s *samples, c *cri.Container) error {
	written, err := r.cfg.Images.RootfsUsage(imageDir(c))
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: c.Dir, Err: err}
	}
	var whole unix.Statfs_t
	if err := unix.Statfs(c.Dir, &whole); err != nil {
		return &fs.PathError{Op: "statfs", Path: c.Dir, Err: err}
	}
	device := deviceName(uint64(unix.Major(st.Dev)), uint64(unix.Minor(st.Dev)))
	s.add("container_fs_usage_bytes", written.GetUsedBytes().GetValue(), device)
	s.add("container_fs_limit_bytes", whole.Blocks*uint64(whole.Bsize), device)
	s.add("container_fs_inodes_total", whole.Files, device)
	s.add("container_fs_inodes_free", whole.Ffree, device)
	return nil
}

func deviceName(major, minor uint64) string {
	return strconv.FormatUint(major, 10) + ":" + strconv.FormatUint(minor, 10)
}

// addCgroup adds the samples of a cgroup.
func (s *samples) addCgroup(cg string) error {
	u, err := cgroup.Read(cg)
	if err != nil {
		return err
	}
	kills, err := cgroup.OOMKills(cg)
	if err != nil {
		return err
	}
	open, err := cgroup.Tasks(cg)
	if err != nil {
		return err
	}
	for name, v := range map[string]uint64{
		"cpu_usage_seconds_total": seconds(u.CPU), "cpu_user_seconds_total": seconds(u.User), "cpu_system_seconds_total": seconds(u.Sys),
		"cpu_cfs_periods_total": u.Periods, "cpu_cfs_throttled_periods_total": u.ThrottledPeriods, "cpu_cfs_throttled_seconds_total": seconds(u.Throttled),
		"memory_usage_bytes": u.Memory, "memory_working_set_bytes": u.WorkingSet, "memory_rss": u.RSS, "memory_cache": u.Cache,
		"memory_mapped_file": u.Mapped, "memory_kernel_usage": u.Kernel, "memory_swap": u.Swap, "memory_max_usage_bytes": u.Peak, "memory_failcnt": u.Fails,
		"spec_memory_limit_bytes": u.Limit, "spec_memory_swap_limit_bytes": u.SwapLimit,
		"oom_events_total": kills, "threads": open.Threads, "threads_max": u.PIDLimit, "file_descriptors": open.Descriptors, "sockets": open.Sockets,
		"last_seen": uint64(u.At.Unix()),
	} {
		s.add("container_"+name, v)
	}
	pids, err := cgroup.Processes(cg)
	s.add("container_processes", uint64(len(pids)))
	s.add("container_memory_failures_total", u.PageFaults, "pgfault")
	s.add("container_memory_failures_total", u.MajorFault, "pgmajfault")
	s.addIO(u)
	return err
}

func (s *samples) addIO(u cgroup.Usage) {
	for _, d := range u.IO {
		device := deviceName(d.Major, d.Minor)
		s.add("container_fs_reads_total", d.Reads, device)
		s.add("container_fs_writes_total", d.Writes, device)
		s.add("container_fs_reads_bytes_total", d.ReadBytes, device)
		s.add("container_fs_writes_bytes_total", d.WriteBytes, device)
		major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		s.add("container_blkio_device_usage_total", d.ReadBytes, device, major, minor, "Read")
		s.add("container_blkio_device_usage_total", d.WriteBytes, device, major, minor, "Write")
	}
	for what, p := range map[string]*cgroup.Pressure{"cpu": u.CPUPressure, "memory": u.MemoryPressure, "io": u.IOPressure} {
		if p != nil {
			s.add("container_pressure_"+what+"_waiting_seconds_total", seconds(p.Some.Total))
			s.add("container_pressure_"+what+"_stalled_seconds_total", seconds(p.Full.Total))
		}
	}
}

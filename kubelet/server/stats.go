package server

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit-project/nodekit/internal/meminfo"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const (
	// sampleApart is the time between the two samples that a first request needs for a
	// rate; sampleOld is the age from which on an earlier sample is too old for one.
	sampleApart = 200 * time.Millisecond
	sampleOld   = time.Minute
)

// sample is the CPU time used, in nanoseconds, at a moment.
type sample struct {
	used uint64
	at   time.Time
}

// meter computes rates from the counters of the runtime and the kernel.
type meter struct {
	mu   sync.Mutex
	last map[string]sample
}

// rate returns the rate since the last sample, in nanocores, and whether that sample
// was usable. now replaces it.
func (m *meter) rate(id string, now sample) (nanocores uint64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == nil {
		m.last = map[string]sample{}
	}
	before, ok := m.last[id]
	apart := now.at.Sub(before.at)
	if ok && apart > 0 && apart < sampleOld/1000 {
		return 0, false // two requests at the same time
	}
	m.last[id] = now
	for other, s := range m.last {
		if now.at.Sub(s.at) > sampleOld {
			delete(m.last, other)
		}
	}
	if !ok || apart <= 0 || apart > sampleOld || now.used < before.used {
		return 0, false
	}
	return uint64(float64(now.used-before.used) / apart.Seconds()), true
}

// summary serves /stats/summary: the resource usage of the node and its containers
// (k8s.io/kubelet/pkg/apis/stats/v1alpha1).
func (s *server) summary(w http.ResponseWriter, r *http.Request) {
	sum, complete, err := s.measure(r.Context())
	if err == nil && !complete {
		time.Sleep(sampleApart)
		sum, _, err = s.measure(r.Context())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	data, err := json.Marshal(sum)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.write(w, data)
}

// measure collects the statistics once. They are complete if every rate has two
// samples.
func (s *server) measure(ctx context.Context) (sum *stats.Summary, complete bool, err error) {
	resp, err := s.config.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{pod.LabelNode: s.config.NodeID}},
	})
	if err != nil {
		return nil, false, err
	}
	sum = &stats.Summary{Node: stats.NodeStats{NodeName: s.config.NodeName}}
	sum.Node.CPU, complete = s.machineCPU()
	sum.Node.Memory = machineMemory()
	byPod := map[string]*stats.PodStats{}
	for _, p := range s.config.Pods() {
		if p.Status.Phase == v1.PodRunning {
			byPod[string(p.UID)] = &stats.PodStats{PodRef: stats.PodReference{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}, StartTime: p.CreationTimestamp}
		}
	}
	for _, c := range resp.GetStats() {
		labels := c.GetAttributes().GetLabels()
		if p := byPod[labels[pod.LabelPodUID]]; p != nil {
			one, ok := s.container(c)
			complete = complete && ok
			p.Containers = append(p.Containers, one)
		}
	}
	for _, p := range byPod {
		sum.Pods = append(sum.Pods, *p)
	}
	return sum, complete, nil
}

func (s *server) container(c *runtimeapi.ContainerStats) (one stats.ContainerStats, complete bool) {
	at := time.Unix(0, c.GetCpu().GetTimestamp())
	used, rate := c.GetCpu().GetUsageCoreNanoSeconds().GetValue(), c.GetCpu().GetUsageNanoCores().GetValue()
	complete = c.GetCpu().GetUsageNanoCores() != nil
	if !complete {
		rate, complete = s.meter.rate(c.GetAttributes().GetId(), sample{used, at})
	}
	memory := c.GetMemory().GetWorkingSetBytes().GetValue()
	return stats.ContainerStats{
		Name: c.GetAttributes().GetLabels()[pod.LabelContainerName],
		CPU:  &stats.CPUStats{Time: metav1.NewTime(at), UsageNanoCores: &rate, UsageCoreNanoSeconds: &used},
		Memory: &stats.MemoryStats{
			Time: metav1.NewTime(time.Unix(0, c.GetMemory().GetTimestamp())), WorkingSetBytes: &memory,
		},
	}, complete
}

// ticks is the unit of /proc/stat in nanoseconds (proc(5), USER_HZ).
const ticks = uint64(time.Second / 100)

// machineCPU reads how long all CPUs have been busy (proc(5)).
func (s *server) machineCPU() (cpu *stats.CPUStats, complete bool) {
	times, err := procstat.ReadCPU()
	if err != nil {
		return nil, true
	}
	used := times.Busy * ticks
	now := time.Now()
	rate, complete := s.meter.rate("", sample{used, now})
	return &stats.CPUStats{Time: metav1.NewTime(now), UsageNanoCores: &rate, UsageCoreNanoSeconds: &used}, complete
}

// machineMemory reads the memory that is not available to new programs (proc(5),
// MemAvailable).
func machineMemory() *stats.MemoryStats {
	sizes, err := meminfo.Read()
	if err != nil {
		return nil
	}
	available, used := sizes["MemAvailable"], sizes["MemTotal"]-sizes["MemAvailable"]
	return &stats.MemoryStats{Time: metav1.Now(), AvailableBytes: &available, WorkingSetBytes: &used}
}

package oci

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// stats reads the usage of the container's cgroup and of its writable layer.
func (r *Runtime) stats(_ context.Context, c *cri.Container) (*runtimeapi.ContainerStats, error) {
	u, err := cgroup.Read(r.cgroupOf(c))
	if err != nil {
		return nil, err
	}
	written, err := r.cfg.Images.RootfsUsage(imageDir(c))
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStats{
		WritableLayer: written,
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: c.Config.GetMetadata(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		},
		Cpu: r.cpuUsage(c.ID, u), Memory: memoryUsage(u), Swap: swapUsage(u), Io: ioUsage(u),
	}, nil
}

// sandboxStats reads the usage of the Pod's cgroup and the counters of its network. A Pod
// on the host's network has no counters of its own.
func (r *Runtime) sandboxStats(_ context.Context, s *cri.Sandbox) (*runtimeapi.LinuxPodSandboxStats, error) {
	parent, own := r.parentCgroup(s)
	out := &runtimeapi.LinuxPodSandboxStats{}
	var err error
	if out.Network, err = r.networkUsage(s); err != nil {
		return nil, err
	}
	if own && !cgroup.Exists(parent) {
		return out, nil // nothing was ever started in it
	}
	u, err := cgroup.Read(parent)
	if err != nil {
		return nil, err
	}
	out.Cpu, out.Memory, out.Io = r.cpuUsage(s.ID, u), memoryUsage(u), ioUsage(u)
	out.Process = &runtimeapi.ProcessUsage{Timestamp: u.At.UnixNano(), ProcessCount: value(u.PIDs)}
	return out, nil
}

// cpuUsage includes the rate if there is an earlier sample of the same object.
func (r *Runtime) cpuUsage(id string, u cgroup.Usage) *runtimeapi.CpuUsage {
	out := &runtimeapi.CpuUsage{Timestamp: u.At.UnixNano(), UsageCoreNanoSeconds: value(uint64(u.CPU)), Psi: psi(u.CPUPressure)}
	if n, ok := r.rates.next(id, u.At, u.CPU); ok {
		out.UsageNanoCores = value(n)
	}
	return out
}

func memoryUsage(u cgroup.Usage) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp: u.At.UnixNano(), WorkingSetBytes: value(u.WorkingSet), UsageBytes: value(u.Memory), RssBytes: value(u.RSS),
		PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorFault), Psi: psi(u.MemoryPressure),
	}
	if u.Limit > 0 {
		m.AvailableBytes = value(u.Limit - min(u.WorkingSet, u.Limit))
	}
	return m
}

func swapUsage(u cgroup.Usage) *runtimeapi.SwapUsage {
	s := &runtimeapi.SwapUsage{Timestamp: u.At.UnixNano(), SwapUsageBytes: value(u.Swap)}
	if u.SwapLimit > 0 {
		s.SwapAvailableBytes = value(u.SwapLimit - min(u.Swap, u.SwapLimit))
	}
	return s
}

func ioUsage(u cgroup.Usage) *runtimeapi.IoUsage {
	if u.IOPressure == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: u.At.UnixNano(), Psi: psi(u.IOPressure)}
}

func psi(p *cgroup.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	of := func(w cgroup.Waiting) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: uint64(w.Total), Avg10: w.Avg10, Avg60: w.Avg60, Avg300: w.Avg300}
	}
	return &runtimeapi.PsiStats{Some: of(p.Some), Full: of(p.Full)}
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

// ifName is the name of the Pod's network interface.
const ifName = "eth0"

// counters returns the counters of the Pod's interfaces, except for the loopback.
func (r *Runtime) counters(s *cri.Sandbox) (counted map[string]rtnl.Counters, err error) {
	counted = map[string]rtnl.Counters{}
	if hostNetwork(s) {
		return counted, nil
	}
	err = netns.Do(filepath.Join(r.sandboxDir(s.ID), "net"), func() error {
		c, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		links, all, err := c.All()
		for i, l := range links {
			if !l.Loopback {
				counted[l.Name] = all[i]
			}
		}
		return err
	})
	return counted, err
}

func (r *Runtime) networkUsage(s *cri.Sandbox) (*runtimeapi.NetworkUsage, error) {
	counted, err := r.counters(s)
	if err != nil || len(counted) == 0 {
		return nil, err
	}
	n := &runtimeapi.NetworkUsage{Timestamp: time.Now().UnixNano()}
	for name, c := range counted {
		one := &runtimeapi.NetworkInterfaceUsage{
			Name: name, RxBytes: value(c.RxBytes), RxErrors: value(c.RxErrors), TxBytes: value(c.TxBytes), TxErrors: value(c.TxErrors),
		}
		if name == ifName {
			n.DefaultInterface = one
		} else {
			n.Interfaces = append(n.Interfaces, one)
		}
	}
	return n, nil
}

// rates keeps the last CPU time of each object. The zero value is ready.
type rates struct {
	mu   sync.Mutex
	last map[string]sampled
}

type sampled struct {
	at    time.Time
	cpu   time.Duration
	cores uint64 // the rate up to then
	known bool
}

// rateWindow is the shortest interval over which a rate is computed. More frequent calls
// get the previous rate.
const rateWindow = time.Second

// next returns the CPU time per second since the last sample, in ns. ok is false for the
// first sample.
func (r *rates) next(id string, at time.Time, cpu time.Duration) (nanoCores uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, known := r.last[id]
	if r.last == nil {
		r.last = map[string]sampled{}
	}
	passed := at.Sub(last.at)
	if !known || cpu < last.cpu {
		r.last[id] = sampled{at: at, cpu: cpu}
		return 0, false
	}
	if passed < rateWindow {
		return last.cores, last.known
	}
	cores := uint64(float64(cpu-last.cpu) / passed.Seconds())
	r.last[id] = sampled{at, cpu, cores, true}
	return cores, true
}

// forget is called when an object was removed.
func (r *rates) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, id)
}

// updateSandbox has nothing to do: the kubelet has already changed the Pod's cgroup, and
// the sandbox has neither a process nor anything else with limits of its own.
func (r *Runtime) updateSandbox(context.Context, *cri.Sandbox, *runtimeapi.LinuxContainerResources, *runtimeapi.LinuxContainerResources) error {
	return nil
}

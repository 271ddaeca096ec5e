package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
)

// Usage is what a cgroup and everything below it use now.
type Usage struct {
	At         time.Time
	CPU        time.Duration // since the cgroup was created
	User, Sys  time.Duration // the parts of CPU
	Memory     uint64        // bytes charged
	WorkingSet uint64        // Memory less the page cache that is easily reclaimed
	RSS        uint64        // anonymous memory
	Cache      uint64        // of files
	Mapped     uint64        // the part of Cache that is mapped
	Kernel     uint64        // kernel memory of the cgroup's processes
	Peak       uint64        // the highest Memory ever; 0 if the kernel does not report it
	PageFaults uint64
	MajorFault uint64
	Limit      uint64 // of memory; 0 if there is none
	Fails      uint64 // how often memory hit the limit
	Swap       uint64 // bytes; 0 also if swap is not accounted
	SwapLimit  uint64 // of swap alone; 0 if there is none
	PIDs       uint64
	PIDLimit   uint64 // 0 if there is none

	// Periods of the CPU quota.
	Periods, ThrottledPeriods uint64
	Throttled                 time.Duration

	IO []IO
	// CPUPressure, MemoryPressure and IOPressure are how long tasks have waited for
	// each; nil if the kernel does not report it, as on v1.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// IO is the traffic to and from a device.
type IO struct {
	Major, Minor                         uint64
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// Pressure is what psi(5) reports for some, and for all, of the tasks.
type Pressure struct{ Some, Full Waiting }

// Waiting is the percentage of time spent waiting over the last 10, 60 and 300
// seconds, and the total time.
type Waiting struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// unlimited is above every real memory limit: v1 reports the largest page-aligned
// int64, v2 "max", which the library turns into MaxUint64.
const unlimited = 1 << 62

// Read returns the usage of a cgroup that exists.
func Read(path string) (Usage, error) {
	m, err := managerOf(path)
	if err != nil {
		return Usage{}, fmt.Errorf("reading cgroup %q: %w", path, err)
	}
	s, err := m.Stats(&cgroups.StatsOptions{Controllers: cgroups.CPU | cgroups.Memory | cgroups.Pids | cgroups.IO})
	if err != nil {
		return Usage{}, fmt.Errorf("reading cgroup %q: %w", path, err)
	}
	u := Usage{
		At:       time.Now(),
		CPU:      time.Duration(s.CpuStats.CpuUsage.TotalUsage),
		User:     time.Duration(s.CpuStats.CpuUsage.UsageInUsermode),
		Sys:      time.Duration(s.CpuStats.CpuUsage.UsageInKernelmode),
		PIDs:     s.PidsStats.Current,
		PIDLimit: s.PidsStats.Limit,
		Periods:  s.CpuStats.ThrottlingData.Periods, ThrottledPeriods: s.CpuStats.ThrottlingData.ThrottledPeriods,
		Throttled:   time.Duration(s.CpuStats.ThrottlingData.ThrottledTime),
		CPUPressure: pressure(s.CpuStats.PSI), MemoryPressure: pressure(s.MemoryStats.PSI), IOPressure: pressure(s.BlkioStats.PSI),
	}
	u.readMemory(s.MemoryStats)
	u.readIO(s.BlkioStats)
	return u, nil
}

func (u *Usage) readMemory(mem cgroups.MemoryStats) {
	total := "total_"
	names := map[*uint64]string{&u.RSS: "rss", &u.Cache: "cache", &u.Mapped: "mapped_file", &u.Swap: "swap"}
	if Version() == 2 {
		total = ""
		names = map[*uint64]string{&u.RSS: "anon", &u.Cache: "file", &u.Mapped: "file_mapped"}
		u.Swap = mem.SwapOnlyUsage.Usage
	}
	for into, name := range names {
		*into = mem.Stats[total+name]
	}
	u.Kernel = mem.KernelUsage.Usage
	if Version() == 2 {
		u.Kernel = mem.Stats["kernel"] // since Linux 5.18
	}
	u.Memory, u.Peak, u.Fails = mem.Usage.Usage, mem.Usage.MaxUsage, mem.Usage.Failcnt
	u.WorkingSet = u.Memory - min(mem.Stats[total+"inactive_file"], u.Memory)
	u.PageFaults, u.MajorFault = mem.Stats[total+"pgfault"], mem.Stats[total+"pgmajfault"]
	if mem.Usage.Limit < unlimited {
		u.Limit = mem.Usage.Limit
	}
	switch limit := mem.SwapUsage.Limit; {
	case Version() == 2 && mem.SwapOnlyUsage.Limit < unlimited:
		u.SwapLimit = mem.SwapOnlyUsage.Limit
	case Version() == 1 && limit > 0 && limit < unlimited: // of both together
		u.SwapLimit = limit - min(u.Limit, limit)
	}
}

func (u *Usage) readIO(s cgroups.BlkioStats) {
	at := map[[2]uint64]int{}
	add := func(entries []cgroups.BlkioStatEntry, read, write func(*IO) *uint64) {
		for _, e := range entries {
			key := [2]uint64{e.Major, e.Minor}
			if _, ok := at[key]; !ok {
				at[key] = len(u.IO)
				u.IO = append(u.IO, IO{Major: e.Major, Minor: e.Minor})
			}
			switch strings.ToLower(e.Op) {
			case "read":
				*read(&u.IO[at[key]]) += e.Value
			case "write":
				*write(&u.IO[at[key]]) += e.Value
			}
		}
	}
	add(s.IoServiceBytesRecursive, func(d *IO) *uint64 { return &d.ReadBytes }, func(d *IO) *uint64 { return &d.WriteBytes })
	add(s.IoServicedRecursive, func(d *IO) *uint64 { return &d.Reads }, func(d *IO) *uint64 { return &d.Writes })
}

func pressure(p *cgroups.PSIStats) *Pressure {
	if p == nil {
		return nil
	}
	of := func(d cgroups.PSIData) Waiting {
		return Waiting{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: time.Duration(d.Total) * time.Microsecond}
	}
	return &Pressure{Some: of(p.Some), Full: of(p.Full)}
}

// OOMKills returns how many processes of the cgroup the kernel's OOM killer has
// killed. It is 0 also if the kernel does not report it.
func OOMKills(cgroup string) (uint64, error) {
	content, err := os.ReadFile(OOMFile(cgroup))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading cgroup %q: %w", cgroup, err)
	}
	for line := range strings.Lines(string(content)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return strconv.ParseUint(n, 10, 64)
		}
	}
	return 0, nil
}

// Open is what the processes of a cgroup have open.
type Open struct {
	Threads, Descriptors uint64
	Sockets              uint64 // the part of Descriptors that are sockets
}

// Tasks returns what the processes in the cgroup and below have open, as far as it is
// visible.
func Tasks(cgroup string) (o Open, err error) {
	pids, err := Processes(cgroup)
	for _, pid := range pids {
		dir := path.Join("/proc", strconv.Itoa(pid)) // it may have ended
		threads, _ := os.ReadDir(path.Join(dir, "task"))
		descriptors, _ := os.ReadDir(path.Join(dir, "fd"))
		o.Threads += uint64(len(threads))
		o.Descriptors += uint64(len(descriptors))
		for _, d := range descriptors {
			if to, _ := os.Readlink(path.Join(dir, "fd", d.Name())); strings.HasPrefix(to, "socket:") {
				o.Sockets++
			}
		}
	}
	return o, err
}

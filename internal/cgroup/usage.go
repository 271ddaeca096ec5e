package cgroup

import (
	"fmt"
	"time"

	"github.com/opencontainers/cgroups"
)

// Usage is what a cgroup and everything below it use now.
type Usage struct {
	At         time.Time
	CPU        time.Duration // since the cgroup was made
	Memory     uint64        // bytes charged
	WorkingSet uint64        // Memory less the page cache that is easily dropped
	RSS        uint64        // anonymous memory
	PageFaults uint64
	MajorFault uint64
	Limit      uint64 // of memory; 0 when there is none
	PIDs       uint64
}

// unlimited is above every real memory limit: v1 reports the largest page
// aligned int64, v2 "max", which the library turns into MaxUint64.
const unlimited = 1 << 62

// Read returns the usage of a cgroup that exists.
func Read(path string) (Usage, error) {
	m, err := managerOf(path)
	if err != nil {
		return Usage{}, fmt.Errorf("reading cgroup %q: %w", path, err)
	}
	s, err := m.Stats(&cgroups.StatsOptions{Controllers: cgroups.CPU | cgroups.Memory | cgroups.Pids})
	if err != nil {
		return Usage{}, fmt.Errorf("reading cgroup %q: %w", path, err)
	}
	mem := s.MemoryStats
	inactive, rss := mem.Stats["total_inactive_file"], mem.Stats["total_rss"]
	if Version() == 2 {
		inactive, rss = mem.Stats["inactive_file"], mem.Stats["anon"]
	}
	u := Usage{
		At:         time.Now(),
		CPU:        time.Duration(s.CpuStats.CpuUsage.TotalUsage),
		Memory:     mem.Usage.Usage,
		WorkingSet: mem.Usage.Usage - min(inactive, mem.Usage.Usage),
		RSS:        rss,
		PageFaults: mem.Stats["pgfault"],
		MajorFault: mem.Stats["pgmajfault"],
		PIDs:       s.PidsStats.Current,
	}
	if mem.Usage.Limit < unlimited {
		u.Limit = mem.Usage.Limit
	}
	return u, nil
}

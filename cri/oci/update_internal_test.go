package oci

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// TestLimitsBefore: what a change had reached is as it was, and no more than that.
func TestLimitsBefore(t *testing.T) {
	memory, shares := int64(5), uint64(7)
	have := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Shares: &shares, Cpus: "0"},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}, {Pagesize: "1GB", Limit: 2}},
		Unified:        map[string]string{"memory.high": "3", "memory.low": "4"},
	}
	change := cgroup.Limits{
		Memory: 6, MemorySwap: 6, CPUQuota: 8, Hugepages: map[string]uint64{"2MB": 9, "64KB": 9},
		Unified: map[string]string{"memory.high": "9", "io.max": "9"},
	}
	for name, c := range map[string]struct {
		have   *specs.LinuxResources
		change cgroup.Limits
		want   cgroup.Limits
	}{
		"limits": {have, change, cgroup.Limits{
			Memory: 5, MemorySwap: -1, CPUQuota: -1, CPUShares: 7, CPUs: "0", Hugepages: map[string]uint64{"2MB": 1}, Unified: map[string]string{"memory.high": "3"},
		}},
		"none":         {nil, change, cgroup.Limits{Memory: -1, MemorySwap: -1, CPUQuota: -1, Hugepages: map[string]uint64{}, Unified: map[string]string{}}},
		"none, few":    {nil, cgroup.Limits{CPUShares: 2}, cgroup.Limits{Hugepages: map[string]uint64{}, Unified: map[string]string{}}},
		"no such ones": {have, cgroup.Limits{}, cgroup.Limits{Memory: 5, CPUShares: 7, CPUs: "0", Hugepages: map[string]uint64{}, Unified: map[string]string{}}},
	} {
		if diff := cmp.Diff(c.want, limitsBefore(c.have, c.change)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

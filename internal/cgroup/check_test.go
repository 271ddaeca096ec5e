package cgroup_test

import (
	"errors"
	"testing"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestCheck(t *testing.T) {
	for name, l := range map[string]cgroup.Limits{
		"nothing":               {},
		"no limits":             {CPUQuota: -1, Memory: -1, MemorySwap: -1},
		"the shortest":          {CPUPeriod: 1000, CPUQuota: 1000},
		"the longest":           {CPUPeriod: 1000000, CPUQuota: 1<<44 - 1},
		"the least and no swap": {CPUShares: 2, Memory: 1 << 20, MemorySwap: 1 << 20},
		"the most and all swap": {CPUShares: 262144, Memory: 1 << 20, MemorySwap: -1},
		"lists":                 {CPUs: " 0,0-0\n", Mems: "0"},
		"words in lists":        {CPUs: "all", Mems: "0-N:1/2"},
	} {
		if err := l.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, l := range map[string]cgroup.Limits{
		"a short period":        {CPUPeriod: 999},
		"a long period":         {CPUPeriod: 1000001},
		"a short quota":         {CPUQuota: 999},
		"a long quota":          {CPUQuota: 1 << 44},
		"swap without memory":   {MemorySwap: 1 << 20},
		"swap and no limit":     {Memory: -1, MemorySwap: 1 << 20},
		"swap below memory":     {Memory: 2, MemorySwap: 1},
		"no such processor":     {CPUs: "0,70000000-70000001"},
		"no such memory node":   {Mems: "70000000"},
		"no number":             {CPUs: "0,a-b"},
		"a negative number":     {CPUs: "-1"},
		"a range without end":   {CPUs: "0-"},
		"a range that runs low": {CPUs: "1-0"},
		"no such huge pages":    {Hugepages: map[string]uint64{"3MB": 1}},
	} {
		if err := l.Check(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want fault.Invalid", name, err)
		}
	}
	for name, l := range map[string]cgroup.Limits{
		"too few shares":  {CPUShares: 1},
		"too many shares": {CPUShares: 262145},
		"unified":         {Unified: map[string]string{"memory.high": "max"}},
	} {
		if err := l.Check(); errors.Is(err, fault.Invalid) != (cgroup.Version() == 1) {
			t.Errorf("%s: %v with cgroup v%d", name, err, cgroup.Version())
		}
	}
}

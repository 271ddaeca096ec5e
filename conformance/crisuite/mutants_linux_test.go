package crisuite_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

// mutant is a runtime with one fault, and the rule that must catch it.
type mutant struct {
	rule, name string
	fault      fault
}

// mutants need not be killed.
func mutants() []mutant {
	return slices.Concat(
		sandboxMutants(), namespaceMutants(), networkMutants(), containerMutants(), configMutants(), stopMutants(), listMutants(), codeMutants(),
		execMutants(), streamMutants(), forwardMutants(), logMutants(), imageMutants(), pullMutants(),
		securityMutants(), userMutants(), mountMutants(), deviceMutants(), resourceMutants(), statsMutants(), eventMutants(),
		concurrencyMutants(), nriMutants(), leakMutants(), timeMutants(),
	)
}

// allMutants adds those of the rules that make crowds, wait and measure, which take
// longer than all others together, and of those that are no MUST; make soak sets it.
var allMutants = flag.Bool("all-mutants", false, "prove the rules behind the quick tier, and those that are no MUST, too")

func TestMutants(t *testing.T) {
	suite := crisuite.Suite()
	suite.Rules = slices.DeleteFunc(suite.Rules, func(r conformance.Rule[crisuite.Target]) bool {
		return (r.Tier > conformance.Quick || r.Level != conformance.Must) && !*allMutants || absent(t, r.ID)
	})
	ref, pods := newHost(t, reference(t)), newHost(t, checkpointing(t))
	var all []conformance.Mutant[crisuite.Target]
	add := func(list []mutant, target func(testing.TB, mutant) crisuite.Target, parallel bool) {
		for _, m := range list {
			i := slices.IndexFunc(suite.Rules, func(r conformance.Rule[crisuite.Target]) bool { return r.ID == m.rule })
			if i < 0 {
				continue
			}
			shared := m.rule == "CRI-IMG-015" // all its mutants remove the one image that their runtime pins
			all = append(all, conformance.Mutant[crisuite.Target]{
				Name: m.name, Rule: m.rule, Seen: m.fault.sees, Parallel: parallel && !suite.Rules[i].Alone && !shared,
				Target: func(t testing.TB) crisuite.Target { return target(t, m) },
			})
		}
	}
	add(mutants(), ref.mutant, true)
	add(checkpointMutants(), pods.mutant, true)
	add(programMutants(), mutantProgram, false)
	add(savingMutants(), mutantSaver, false)
	conformance.TestMutants(t, suite, all)
}

// absent reports whether a rule is about what this machine does not have. Its mutants are
// proven where it does.
func absent(t *testing.T, rule string) bool {
	on, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	levels, _ := os.ReadFile("/sys/fs/selinux/mls")
	_, err := os.Stat("/sys/fs/cgroup/hugetlb/cgroup.procs")
	_, noSwapV1 := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	swapV2, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
	have, listed := map[string]bool{
		"CRI-SEC-017":   strings.HasPrefix(string(on), "Y"),
		"CRI-SEC-018":   strings.HasPrefix(string(on), "Y"),
		"CRI-SEC-020":   string(levels) == "1",
		"CRI-SEC-021":   string(levels) == "1",
		"CRI-MOUNT-015": string(levels) == "1",
		"CRI-RES-011":   err == nil || strings.Contains(string(controllers), "hugetlb"),
		"CRI-RES-012":   noSwapV1 == nil || len(swapV2) > 0,
		"CRI-STATS-010": noSwapV1 == nil || len(swapV2) > 0,
		"CRI-RES-013":   len(swapV2) > 0,
	}[rule]
	if listed && !have {
		t.Logf("%s: this machine does not have what it is about", rule)
	}
	return listed && !have
}

package crisuite_test

import (
	"flag"
	"slices"
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
		concurrencyMutants(), leakMutants(), timeMutants(),
	)
}

// allMutants adds those of the rules that make crowds, wait and measure, which take
// longer than all others together; make soak sets it.
var allMutants = flag.Bool("all-mutants", false, "prove the rules behind the quick tier, too")

func TestMutants(t *testing.T) {
	h := newHost(t)
	suite := crisuite.Suite()
	if !*allMutants {
		suite.Rules = slices.DeleteFunc(suite.Rules, func(r conformance.Rule[crisuite.Target]) bool { return r.Tier > conformance.Quick })
	}
	proven := func(rule string) bool {
		return slices.ContainsFunc(suite.Rules, func(r conformance.Rule[crisuite.Target]) bool { return r.ID == rule })
	}
	var all []conformance.Mutant[crisuite.Target]
	for _, m := range mutants() {
		if !proven(m.rule) {
			continue
		}
		all = append(all, conformance.Mutant[crisuite.Target]{
			Name: m.name, Rule: m.rule, Parallel: besideOthers(suite, m.rule),
			Target: func(t testing.TB) crisuite.Target { return h.mutant(t, m.fault) },
		})
	}
	for _, m := range programMutants() {
		if !proven(m.rule) {
			continue
		}
		all = append(all, conformance.Mutant[crisuite.Target]{
			Name: m.name, Rule: m.rule,
			Target: func(t testing.TB) crisuite.Target { return mutantProgram(t, m.name) },
		})
	}
	conformance.TestMutants(t, suite, all)
}

// besideOthers reports whether the rule may run while others do.
func besideOthers(s *conformance.Suite[crisuite.Target], rule string) bool {
	i := slices.IndexFunc(s.Rules, func(r conformance.Rule[crisuite.Target]) bool { return r.ID == rule })
	return i >= 0 && !s.Rules[i].Alone
}

// TestReference holds the reference runtime to all quick rules. make conformance
// does to those that kill, too.
func TestReference(t *testing.T) {
	crisuite.Suite().Test(t, reference(t), nil)
}

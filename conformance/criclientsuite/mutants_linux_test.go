package criclientsuite_test

import (
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
)

// mutant is a client with one fault, and the rule that must catch it.
type mutant struct {
	rule, name string
	seen       string // a part of what the rule must have seen
	fault      fault
	// own is a kubelet that is not on the stage with the others.
	own func(t testing.TB, f fault) criclientsuite.Target
}

func mutants() []mutant {
	return slices.Concat(
		connectMutants(), sandboxMutants(), sandboxFaultMutants(), containerMutants(), mountMutants(), securityMutants(), resourceMutants(),
		orderMutants(), restartMutants(), containerFaultMutants(), imageMutants(), execMutants(), stopMutants(), logMutants(), crashMutants(),
	)
}

// mutantPatience is how long rules wait for what a mutant leaves out.
const mutantPatience = 8 * time.Second

// allMutants adds those of the rules behind the quick tier, which wait more than all
// others together, and of those that are no MUST; make soak sets it.
var allMutants = flag.Bool("all-mutants", false, "prove the rules behind the quick tier, and those that are no MUST, too")

func TestMutants(t *testing.T) {
	t.Parallel()
	suite := criclientsuite.Suite()
	if !*allMutants {
		suite.Rules = slices.DeleteFunc(suite.Rules, func(r conformance.Rule[criclientsuite.Target]) bool {
			return r.Tier > conformance.Quick || r.Level != conformance.Must
		})
	}
	for i := range suite.Rules {
		// The time of a quick rule is less than its patience on a slow machine.
		suite.Rules[i].Tier = max(suite.Rules[i].Tier, conformance.Crash)
	}
	proven := func(rule string) bool {
		return slices.ContainsFunc(suite.Rules, func(r conformance.Rule[criclientsuite.Target]) bool { return r.ID == rule })
	}
	shared := newStage(t)
	var all []conformance.Mutant[criclientsuite.Target]
	for _, m := range mutants() {
		if !proven(m.rule) && !*allMutants {
			continue
		}
		all = append(all, conformance.Mutant[criclientsuite.Target]{
			Name: m.name, Rule: m.rule, Seen: m.seen, Parallel: true,
			Target: func(t testing.TB) criclientsuite.Target {
				if m.own != nil {
					return m.own(t, m.fault)
				}
				return shared.enter(t, m.rule, m.fault)
			},
		})
	}
	conformance.TestMutants(t, suite, all)
}

// without is our kubelet whose author does not say what it lacks: it refuses the Pods
// of rules about that.
func without(t testing.TB, f fault) criclientsuite.Target {
	t.Helper()
	target := alone(t, f)
	target.Lacks = nil
	return target
}

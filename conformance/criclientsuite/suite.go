// Package criclientsuite holds a kubelet, or another client of the Kubernetes
// Container Runtime Interface (cri-api v0.37, runtime.v1), to the client's side of
// it. It gives the kubelet a recording runtime on a unix socket and a directory of
// Pod manifests, and reads what the runtime was asked: which calls, in which order,
// with which requests and deadlines, and what the kubelet makes of answers that
// fail, come late or get lost, of a runtime that restarts, and of its own death.
//
// The runtime is made with package cri; its containers are entries of a list, so
// that neither programs nor images are needed. Behind it nothing of the kubelet is
// looked at.
//
// Rules that harm nobody share one kubelet, beside each other, and each has Pods of
// its own. Rules that kill the kubelet or the runtime get both for themselves.
//
// Nothing is skipped softly: a kubelet that refuses a field of a Pod fails the
// rules about it, unless its author declares that it lacks the feature
// (Target.Lacks). docs/conformance-cri-client.md lists the rules, and the positions
// where the text is not clear.
//
// The suite needs what the kubelet needs, which is Linux and root as a rule.
package criclientsuite

import (
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Suite returns the table of rules.
func Suite() *conformance.Suite[Target] {
	s := &conformance.Suite[Target]{
		Name: "cri-client", Version: "2",
		Rules: slices.Concat(
			connectRules(), sandboxRules(), sandboxFieldRules(), sandboxFaultRules(), containerRules(), containerFieldRules(), mountRules(),
			securityRules(), profileRules(), resourceRules(), orderRules(), restartRules(), containerFaultRules(), imageRules(), execRules(), stopRules(),
			logRules(), crashRules(),
		),
		Facts:      facts(),
		Open:       Open,
		Concurrent: func(Target) bool { return true },
	}
	return s
}

// Test runs all rules on the kubelet inside go test, a subtest for each.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

type (
	rule  = conformance.Rule[Target]
	input = conformance.Input[Target]
)

// must makes a rule of a sentence of api.proto.
func must(id, title, section, sentence string, check look, needs ...Feature) rule {
	return rule{
		ID: id, Level: conformance.Must, Title: title, Check: with(id, check, needs),
		Spec: conformance.Spec{Document: "CRI", Version: "cri-api v0.37", Section: section, Sentence: sentence},
	}
}

// should makes a rule of a sentence that recommends.
func should(id, title, section, sentence string, check look, needs ...Feature) rule {
	r := must(id, title, section, sentence, check, needs...)
	r.Level = conformance.Should
	return r
}

// relied makes a rule of what a Pod or a runtime does not work without.
func relied(id, title, section, sentence string, check look) rule {
	r := must(id, title, section, sentence, check)
	r.Spec.Document, r.Spec.Version = "kubelet", "1.36"
	return r
}

// facto makes a rule of what runtimes and tools beside them have come to rely on.
func facto(id, title, section, sentence string, check look) rule {
	r := relied(id, title+" (de facto)", section, sentence, check)
	r.Level = conformance.Should
	return r
}

// slow puts a rule that waits for what a kubelet does seldom into the second tier.
func slow(r rule) rule {
	r.Tier = conformance.Crash
	return r
}

// own gives a rule a kubelet and a runtime of its own, with faults from the first call
// on. Nil is none.
func own(r rule, check look, faults func() []*fault) rule {
	if faults == nil {
		faults = func() []*fault { return nil }
	}
	r.Tier, r.Check = conformance.Crash, withOwn(r.ID, check, faults)
	return r
}

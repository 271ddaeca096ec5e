// Package criclientsuite checks a kubelet, or another client of the Kubernetes
// Container Runtime Interface (cri-api v0.37, runtime.v1), against the client's side
// of it. It gives the kubelet a recording runtime on a unix socket and a directory of
// Pod manifests, and reads what the runtime was asked: which calls, in which order,
// with which requests and deadlines, and how the kubelet handles answers that fail,
// come late or get lost, a runtime that restarts, and its own death.
//
// The runtime is built on package cri; its containers are entries of a list, so
// that neither programs nor images are needed. The suite looks at nothing else of the
// kubelet.
//
// Rules that harm neither share one kubelet and run concurrently, each with its own
// Pods. Rules that kill the kubelet or the runtime get their own pair.
//
// Nothing is skipped silently: a kubelet that refuses a field of a Pod fails the
// rules about it, unless its author declares that it lacks the feature
// (Target.Lacks). docs/conformance-cri-client.md lists the rules, and the positions
// where the text is not clear.
//
// The suite needs what the kubelet needs, usually Linux and root.
package criclientsuite

import (
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Suite returns the table of rules.
func Suite() *conformance.Suite[Target] {
	s := &conformance.Suite[Target]{
		Name: "cri-client", Version: "3",
		Rules: slices.Concat(
			connectRules(), sandboxRules(), sandboxFieldRules(), sandboxFaultRules(), containerRules(), containerFieldRules(), mountRules(),
			securityRules(), profileRules(), procRules(), resourceRules(), orderRules(), restartRules(), containerFaultRules(), imageRules(), execRules(), stopRules(),
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

// must returns a rule from a sentence of api.proto.
func must(id, title, section, sentence string, check look, needs ...Feature) rule {
	return rule{
		ID: id, Level: conformance.Must, Title: title, Check: with(id, check, needs),
		Spec: conformance.Spec{Document: "CRI", Version: "cri-api v0.37", Section: section, Sentence: sentence},
	}
}

// should returns a rule from a sentence that recommends.
func should(id, title, section, sentence string, check look, needs ...Feature) rule {
	r := must(id, title, section, sentence, check, needs...)
	r.Level = conformance.Should
	return r
}

// relied returns a rule about what Pods or runtimes do not work without.
func relied(id, title, section, sentence string, check look) rule {
	r := must(id, title, section, sentence, check)
	r.Spec.Document, r.Spec.Version = "kubelet", "1.36"
	return r
}

// facto returns a rule about what runtimes and tools around them have come to rely on.
func facto(id, title, section, sentence string, check look) rule {
	r := relied(id, title+" (de facto)", section, sentence, check)
	r.Level = conformance.Should
	return r
}

// slow puts a rule that waits for what a kubelet rarely does into the second tier.
func slow(r rule) rule {
	r.Tier = conformance.Crash
	return r
}

// own gives a rule its own kubelet and runtime, with faults from the first call on, or
// none for nil.
func own(r rule, check look, faults func() []*fault) rule {
	if faults == nil {
		faults = func() []*fault { return nil }
	}
	r.Tier, r.Check = conformance.Crash, withOwn(r.ID, check, faults)
	return r
}

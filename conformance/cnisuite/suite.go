// Package cnisuite tests a CNI plugin against the CNI specification 1.1.0. It
// executes the plugin's binary as a runtime does, with an exact environment and with
// network namespaces of its own as host and container, and looks only at exit status,
// stdout and the kernel.
//
// If the plugin delegates to an IPAM plugin, the suite stands in with a scripted one
// named "suite-ipam": a configuration whose ipam.type is that name gets addresses
// from 10.123.0.0/16, and the suite sees every delegated call.
//
// Positions where the specification's text is not clear:
//
//   - Errors are expected on stdout only. Section 2, Overview, says stderr; STATUS,
//     section 5 and every runtime say stdout.
//   - STATUS is a command like the others. The list of CNI_COMMAND and "CNI defines
//     5 operations" omit it; a section of its own defines it.
//   - "If an interface of the requested name already exists" binds plugins that
//     create one. Chained plugins adjust the existing interface.
//   - DEL is best effort, as its own section says. In section 3 the runtime halts at
//     an error, which is no excuse for the plugin to leave things behind.
//   - "Upon receiving a DEL command, [a plugin] should either delete the interface
//     or undo any modifications" leaves the choice between the two, not whether to
//     do one of them: a DEL that has all it needs must undo the ADD. If something is
//     missing (a namespace, an interface, runtimeConfig), it must not fail because of
//     that; what it frees is effort, and those rules are Should.
//   - GC has CNI_PATH, STATUS may not have it: each section is taken literally, and a
//     plugin that delegates nothing must work without in either.
//
// Rules that the specification does not have, but that runtimes and Kubernetes need
// nevertheless, are Should rules with "(de facto)" in the title. Quality beyond that
// is Advisory. docs/conformance-cni.md lists the rules.
//
// The suite needs Linux, /bin/sh, and root, if only that of a user namespace:
// `unshare -Urnm` gives one.
package cnisuite

import (
	"context"
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Suite returns the suite's rules.
func Suite() *conformance.Suite[Target] {
	s := &conformance.Suite[Target]{
		Name: "cni", Version: "4",
		Rules: slices.Concat(
			protocolRules(), environmentRules(), inputRules(), processRules(),
			lifeRules(), attachmentRules(), statusRules(), checkRules(), checkFaultRules(), checkHostRules(), gcRules(),
			ipamRules(), rebootRules(), pathRules(), portmapRules(), portmapEdgeRules(), latencyRules(),
		),
		Facts:      facts(),
		Prepare:    prepare,
		Concurrent: Target.apart,
		// A check waits for the removal of interfaces and namespaces: with one
		// per processor, a fifth of the processors' time would be idle.
		PerProcessor: 2,
	}
	known := &experiments{}
	for i := range s.Rules {
		s.Rules[i].Check = known.in(s.Rules[i].Check)
		// Kills at chosen moments, and many calls at once, need an otherwise idle
		// machine.
		s.Rules[i].Alone = s.Rules[i].Alone || s.Rules[i].Tier > conformance.Quick
	}
	return s
}

// Test runs the suite on the plugin inside go test, one subtest for each rule.
// It includes the rules that kill the plugin.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// rule returns a rule of the specification's current version.
func rule(id string, level conformance.Level, title, section, sentence string) conformance.Rule[Target] {
	return conformance.Rule[Target]{
		ID: id, Level: level, Title: title,
		Spec: conformance.Spec{Document: "CNI", Version: "1.1.0", Section: section, Sentence: sentence},
	}
}

// checked gives a rule its check, which runs in a lab.
func checked(r conformance.Rule[Target], check func(context.Context, *lab) error) conformance.Rule[Target] {
	r.Check = inLab(check)
	return r
}

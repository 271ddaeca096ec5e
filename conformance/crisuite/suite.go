// Package crisuite holds container runtimes, in any language, to the
// Kubernetes Container Runtime Interface (cri-api v0.37, runtime.v1), and to
// what the kubelet (1.36) relies on beyond its text.
//
// The suite is a client of the runtime's socket. Besides the answers, it checks what
// its own program, podtool, sees inside the containers, and the kernel's state. The
// suite builds the images with that program and serves them from its own registry on
// loopback, so it needs no access to a network.
//
// A program (Target.Exec) is started once for the rules that ask, and anew for each
// rule that kills it, in directories of its own. A runtime that already runs
// (Target.Endpoint) is used as it is, alongside its other clients, and rules that kill
// do not apply. A rule removes what it creates on the runtime, also when it fails; a
// separate rule then looks for leftovers.
//
// Nothing is skipped silently: if a runtime fails, or answers Unimplemented to, what the
// kubelet needs, the rule fails, unless the runtime's author declares that it lacks the
// feature (Target.Lacks). docs/conformance-cri.md lists the rules.
//
// Exec needs Linux, and most rules need root.
package crisuite

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Suite returns the table of rules.
func Suite() *conformance.Suite[Target] {
	s := &conformance.Suite[Target]{
		Name: "cri", Version: "8",
		Rules: slices.Concat(
			runtimeRules(), sandboxRules(), namespaceRules(), networkRules(),
			containerRules(), configRules(), stopRules(), listRules(), codeRules(),
			execRules(), streamRules(), portForwardRules(), logRules(), imageRules(), pullRules(),
			securityRules(), appArmorRules(), seLinuxRules(), userRules(), mountRules(), deviceRules(), resourceRules(), statsRules(), eventRules(),
			concurrencyRules(), checkpointRules(), nriRules(), crashRules(), sessionCrashRules(), checkpointCrashRules(), leakRules(), measureRules(),
		),
		Facts:      facts(),
		Open:       open,
		Concurrent: func(Target) bool { return true }, // Pods are isolated from each other in any real runtime
	}
	for i := range s.Rules {
		// Exact moments of kills, and crowds, need a machine that does nothing else.
		s.Rules[i].Alone = s.Rules[i].Alone || s.Rules[i].Tier > conformance.Quick
	}
	return s
}

// Test runs the quick and the crash rules on a runtime, each as a subtest.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// Build builds the program in the directory dir and returns it as a target that keeps its
// state in --root, as runtimes with cri.Main do.
func Build(t testing.TB, dir string) Target {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "runtime")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the runtime in %q: %v\n%s", dir, err, out)
	}
	return Target{Exec: []string{binary, "--endpoint", Endpoint, "--root", Root}}
}

type (
	rule  = conformance.Rule[Target]
	input = conformance.Input[Target]
	look  = func(context.Context, *subject) error
)

// must makes a rule from a sentence of api.proto.
func must(id, title, section, sentence string, check look, needs ...Feature) rule {
	return rule{
		ID: id, Level: conformance.Must, Title: title, Check: with(id, check, needs),
		Spec: conformance.Spec{Document: "CRI", Version: "cri-api v0.37", Section: section, Sentence: sentence},
	}
}

// should makes a rule from a sentence that recommends something, or is not quite clear.
func should(id, title, section, sentence string, check look, needs ...Feature) rule {
	r := must(id, title, section, sentence, check, needs...)
	r.Level = conformance.Should
	return r
}

// relied makes a rule from what the kubelet needs to work.
func relied(id, title, section, sentence string, check look, needs ...Feature) rule {
	r := must(id, title, section, sentence, check, needs...)
	r.Spec.Document, r.Spec.Version = "kubelet", "1.36"
	return r
}

// facto makes a rule from what users and other runtimes have come to rely on.
func facto(id, title, section, sentence string, check look, needs ...Feature) rule {
	r := relied(id, title+" (de facto)", section, sentence, check, needs...)
	r.Level = conformance.Should
	return r
}

// crash puts a rule into the tier of those that kill the runtime: it gets a runtime of
// its own.
func crash(r rule, check look, needs ...Feature) rule {
	r.Tier, r.Check = conformance.Crash, withOwn(r.ID, check, needs)
	return r
}

// alone keeps other rules from running at the same time.
func alone(r rule) rule {
	r.Alone = true
	return r
}

// heavy puts a rule that creates crowds, waits or measures into the second tier.
func heavy(r rule) rule {
	r.Tier = conformance.Crash
	return r
}

// soak puts a rule into the last tier.
func soak(r rule) rule {
	r.Tier = conformance.Soak
	return r
}

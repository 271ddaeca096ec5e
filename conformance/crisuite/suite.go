// Package crisuite holds container runtimes, in any language, to the
// Kubernetes Container Runtime Interface (cri-api v0.37, runtime.v1).
//
// The suite is a client of the runtime's socket. A target that is given as a
// command is started anew for every rule, in directories of its own, and is
// killed and restarted by the crash rules; one that is given as an endpoint is
// used as it is, beside its other clients, and the crash rules do not apply.
//
// Rules about sandboxes need no image. Rules about containers run the image
// that the target names, and do not apply without one. What a rule makes on
// the runtime it removes again, also when it fails. Commands need Linux.
package crisuite

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Endpoint and Root stand in Target.Command and Target.Env for the socket's
// URL and for a directory in which the runtime may keep state.
const (
	Endpoint = "{endpoint}"
	Root     = "{root}"
)

// Target is a runtime under test: Endpoint or Command is set.
type Target struct {
	// Endpoint is the socket of a runtime that is running.
	Endpoint string
	// Command is the runtime's program and its arguments, with Endpoint and
	// Root replaced. CONTAINER_RUNTIME_ENDPOINT is in its environment, too.
	Command []string
	// Env is added to this process's environment, "NAME=value" each.
	Env []string
	// Image is an image that the runtime has, or can pull, and Sleep a command
	// in it that runs until it is killed and Fail one that ends with code 7.
	// Rules about containers do not apply without them.
	Image       string
	Sleep, Fail []string
}

// Suite returns the table of rules.
func Suite() *conformance.Suite[Target] {
	return &conformance.Suite[Target]{
		Name: "cri", Version: "1",
		Rules: slices.Concat(runtimeRules(), sandboxRules(), containerRules(), crashRules(), leakRules()),
	}
}

// Test runs the quick and the crash rules on a runtime, a subtest each.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// Build builds the program in the directory dir and returns it as a target
// that keeps its state where --root says, as runtimes with cri.Main do.
func Build(t testing.TB, dir string) Target {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "runtime")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the runtime in %q: %v\n%s", dir, err, out)
	}
	return Target{Command: []string{binary, "--endpoint", Endpoint, "--root", Root}}
}

// spec names a place in api.proto.
func spec(section, sentence string) conformance.Spec {
	return conformance.Spec{Document: "CRI", Version: "cri-api v0.37", Section: section, Sentence: sentence}
}

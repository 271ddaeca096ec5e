// Package crisuite holds container runtimes, in any language, to the
// Kubernetes Container Runtime Interface (cri-api v0.37, runtime.v1).
//
// The suite is a client of the runtime's socket. A program (Target.Exec) is
// started anew for every rule, in directories of its own, and is killed and
// restarted by the crash rules; a runtime that runs already (Target.Endpoint) is
// used as it is, beside its other clients, and the crash rules do not apply.
//
// Rules about sandboxes need no image. Rules about containers run the image
// that the target names, and do not apply without one. What a rule makes on
// the runtime it removes again, also when it fails. Exec needs Linux.
package crisuite

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Endpoint and Root stand in Target.Exec and Target.Env for what a rule gives
// the runtime.
const (
	Endpoint = "$(CONTAINER_RUNTIME_ENDPOINT)"
	Root     = "$(STATE_DIRECTORY)"
)

// Target is the runtime under test: a program or a socket.
type Target struct {
	// Exec is a program and its arguments, started anew for each rule. It gets
	// what a node's init system gives a runtime, in its environment, and in its
	// arguments for "$(NAME)":
	//
	//	CONTAINER_RUNTIME_ENDPOINT  the socket to serve on, unix:///...
	//	STATE_DIRECTORY             an empty directory for what must survive a restart
	Exec []string
	// Env is added to the environment of Exec, as NAME=value, with "$(NAME)"
	// replaced, too.
	Env []string
	// Endpoint is the socket of a runtime that runs already. Rules that kill
	// the runtime do not apply then. It is used when Exec is empty.
	Endpoint string
	// Image is an image that the runtime has, or can pull, and Sleep a command
	// in it that runs until it is killed and Fail one that ends with code 7.
	// Rules about containers do not apply without them.
	Image       string
	Sleep, Fail []string
	// Print is a command in the image that writes "hello" and a newline to its
	// output, and ends. The rule about logs does not apply without it.
	Print []string
}

// Suite returns the table of rules.
func Suite() *conformance.Suite[Target] {
	return &conformance.Suite[Target]{
		Name: "cri", Version: "1",
		Rules: slices.Concat(runtimeRules(), sandboxRules(), containerRules(), execRules(), imageRules(), logRules(), eventRules(), crashRules(), leakRules()),
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
	return Target{Exec: []string{binary, "--endpoint", Endpoint, "--root", Root}}
}

// spec names a place in api.proto.
func spec(section, sentence string) conformance.Spec {
	return conformance.Spec{Document: "CRI", Version: "cri-api v0.37", Section: section, Sentence: sentence}
}

// Package csisuite tests CSI drivers, in any language, against the Container Storage
// Interface v1.13.
//
// It is the orchestrator of a driver that it starts itself (Target.Exec) or that is
// already running (Target.Endpoint), and looks at what a workload would see: bytes in
// the published directory, mounts, files and processes. With Exec it also kills the
// driver and starts it again. A rule about a capability that the driver does not
// claim is not applicable.
//
// The suite needs Linux and the right to mount; a driver reached by its endpoint must
// see the suite's directory for temporary files. Rules run one after the other.
package csisuite

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// Placeholders in Target.Exec and Target.Env for what a rule gives the driver.
const (
	Endpoint = "$(CSI_ENDPOINT)"
	Root     = "$(STATE_DIRECTORY)"
	NodeID   = "$(NODE_ID)"
)

// Target is the driver under test: a program or a socket.
type Target struct {
	// Exec is a program and its arguments, started anew for each rule. It gets what a
	// driver's deployment provides, in its environment, and in its arguments for
	// "$(NAME)":
	//
	//	CSI_ENDPOINT     the socket to serve on, unix:///...
	//	STATE_DIRECTORY  an empty directory for what must survive a restart
	//	NODE_ID          the node's id
	Exec []string
	// Env is added to the environment of Exec, as NAME=value, also with "$(NAME)"
	// replaced.
	Env []string
	// Endpoint is the socket of a driver that is already running. Rules that restart
	// the driver are then not applicable. It is used if Exec is empty.
	Endpoint string
	// Volume says which volumes the suite uses. The facts of a profile take
	// precedence.
	Volume Volume
}

// Volume says which volumes the suite uses; the zero value suits most drivers.
type Volume struct {
	// ID is an existing volume, for a driver that creates none.
	ID string
	// Size is the requested size in bytes. 0 means 1 MiB.
	Size int64
	// FSType is the file system type. Empty means the driver's own.
	FSType string
	// AccessMode is the specification's name. Empty means SINGLE_NODE_WRITER.
	// Rules that write do not apply to a mode without writers.
	AccessMode string
	// Parameters are those of CreateVolume.
	Parameters map[string]string
}

// Suite returns the rules.
func Suite() *conformance.Suite[Target] {
	return &conformance.Suite[Target]{
		Name: "csi", Version: "1", Prepare: prepare,
		Rules: []conformance.Rule[Target]{
			createIsIdempotent, createRefusesOtherSize,
			publishIsIdempotent, publishReadOnly, publishRefusesOtherArguments, inversesAreIdempotent,
			killBetweenStageAndPublish, killInCreate,
			nothingRemains,
		},
		Facts: map[string]string{
			factVolume:     "the id of an existing volume to use, for a driver that creates none",
			factSize:       "the size in bytes of the volumes that the suite creates (default 1048576)",
			factFSType:     "the file system type to ask for (default: the driver's own)",
			factAccessMode: "the access mode to use volumes in (default SINGLE_NODE_WRITER)",
			factParameters: "the parameters of CreateVolume, as name=value,name=value",
		},
	}
}

// Facts that a profile may declare.
const (
	factVolume     = "volume-id"
	factSize       = "volume-size"
	factFSType     = "fs-type"
	factAccessMode = "access-mode"
	factParameters = "parameters"
)

// Test checks the target against every rule of the quick and crash tiers, as
// subtests. It skips if the machine does not allow mounts.
func Test(t *testing.T, target Target) {
	t.Helper()
	testenv.Require(t, testenv.Root)
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// Build builds the program in the directory dir and returns it as a target that
// reads CSI_ENDPOINT and the rest from its environment, as drivers with csi.Main
// do.
func Build(t testing.TB, dir string) Target {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "driver")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the driver in %q: %v\n%s", dir, err, out)
	}
	return Target{Exec: []string{binary}}
}

// says returns the sentence of the specification that a rule checks.
func says(section, sentence string) conformance.Spec {
	return conformance.Spec{Document: "CSI", Version: "1.13.0", Section: section, Sentence: sentence}
}

// Package cnisuite holds a CNI plugin to the CNI specification 1.1.0. It
// executes the plugin's binary as a runtime does, with an exact environment and
// with network namespaces of its own as host and container, and looks only at
// exit status, stdout and the kernel.
//
// Where the plugin delegates to an IPAM plugin, the suite stands in with a
// scripted one named "suite-ipam": a configuration whose ipam.type is that name
// gets addresses of 10.123.0.0/16, and the suite sees every delegated call.
//
// Positions where the specification's text is not clear: errors are looked for
// on stdout only (§2 Overview says stderr, §2 STATUS, §5 and every runtime say
// stdout). DEL is best effort (§2 DEL), whatever §3 says about halting.
//
// The suite needs Linux, root and /bin/sh.
package cnisuite

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Target is the plugin under test.
type Target struct {
	// Binary is the path of the plugin's executable. Required.
	Binary string
	// Config is the plugin's configuration, a JSON object without cniVersion and
	// name, which the suite sets. A type that is missing is the binary's name.
	// "${DIR}" in it stands for a directory of its own that each check makes.
	// Empty means an object without keys.
	Config string
	// Path are further directories of CNI_PATH, where real delegates are.
	Path []string
	// Dirs are directories where the plugin keeps state, besides ${DIR}. Files
	// that an attachment leaves there are leaks.
	Dirs []string
	// Chained says that the plugin adjusts an interface that an earlier plugin
	// made. It then gets one, with a prevResult that describes it.
	Chained bool
}

// Suite returns the suite's rules.
func Suite() *conformance.Suite[Target] {
	return &conformance.Suite[Target]{
		Name:    "cni",
		Version: "1",
		Rules:   append(protocolRules(), lifeRules()...),
		Facts: map[string]string{
			"config":  "the plugin's configuration, a JSON object",
			"path":    "further directories of CNI_PATH, separated by colons",
			"dirs":    "directories where the plugin keeps state, separated by colons",
			"chained": `"true" for a plugin that adjusts an existing interface`,
		},
	}
}

// Test runs the suite on the plugin inside go test, one subtest for each rule.
// It includes the rules that kill the plugin.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// NewTarget makes the target of a command line: the binary, and what a profile
// declares about it, which may be nil.
func NewTarget(binary string, profile *conformance.Profile) (Target, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return Target{}, fmt.Errorf("plugin %q: %w", binary, err)
	}
	t := Target{Binary: path}
	t.Config, _ = profile.Fact("config")
	if dirs, ok := profile.Fact("path"); ok {
		t.Path = filepath.SplitList(dirs)
	}
	if dirs, ok := profile.Fact("dirs"); ok {
		t.Dirs = filepath.SplitList(dirs)
	}
	chained, _ := profile.Fact("chained")
	t.Chained = chained == "true"
	_, err = t.config("/")
	return t, err
}

// config returns the configuration's keys with ${DIR} put in.
func (t *Target) config(dir string) (map[string]any, error) {
	out := map[string]any{}
	if t.Config != "" {
		quoted, err := json.Marshal(dir)
		if err != nil {
			return nil, err
		}
		text := strings.ReplaceAll(t.Config, "${DIR}", strings.Trim(string(quoted), `"`))
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			return nil, fmt.Errorf("the configuration in the profile: %w", err)
		}
	}
	if out["type"] == nil {
		out["type"] = filepath.Base(t.Binary)
	}
	return out, nil
}

// rule makes a rule of the specification's current version.
func rule(id string, level conformance.Level, title, section, sentence string) conformance.Rule[Target] {
	return conformance.Rule[Target]{
		ID: id, Level: level, Title: title,
		Spec: conformance.Spec{Document: "CNI", Version: "1.1.0", Section: section, Sentence: sentence},
	}
}

// Build builds the program in a folder, which a test gives as ".", and returns
// it as a target without configuration.
func Build(t testing.TB, dir string) Target {
	t.Helper()
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), filepath.Base(abs))
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Dir = abs
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin in %q: %v\n%s", dir, err, out)
	}
	return Target{Binary: binary}
}

// Package devicesuite tests device plugins, in any language, against the device
// plugin API (k8s.io/kubelet deviceplugin/v1beta1) and against what the Kubernetes
// documentation expects of plugins.
//
// For each rule the suite plays a kubelet in a directory of its own: it starts the
// plugin, accepts its registration, watches its devices, and then restarts as a
// kubelet does, kills the plugin, or stops it. Like a DaemonSet, it restarts a plugin
// that ends by itself. The suite needs Linux.
package devicesuite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/kubeletdir"
)

// KubeletDir stands for the suite's directory in Target.Exec and Target.Env.
const KubeletDir = "$(KUBELET_DIR)"

// Target is a device plugin under test.
type Target struct {
	// Exec is the plugin's program and its arguments, started anew for each rule.
	// KubeletDir in it is replaced by the directory that plays /var/lib/kubelet. If
	// KubeletDir does not occur, the target hard-codes /var/lib/kubelet: it then runs
	// in a mount namespace in which that is the suite's directory, which needs root.
	Exec []string
	// Env is added to this process's environment, "NAME=value" each.
	Env []string
	// Patience is how long the suite waits for what the plugin should do by
	// itself: register, list, end. Zero means 30 s.
	Patience time.Duration
}

// Suite returns the table of rules.
func Suite() *conformance.Suite[Target] {
	return &conformance.Suite[Target]{
		Name: "deviceplugin", Version: "2", Prepare: prepare,
		Rules: slices.Concat(registrationRules(), deviceRules(), answerRules(), crashRules(), leakRules()),
	}
}

// prepare reports what would fail every rule and says nothing about the plugin.
func prepare(_ context.Context, target Target) error {
	if len(target.Exec) == 0 {
		return errors.New("the target has no command")
	}
	if _, told := expand(target, ""); !told && os.Geteuid() != 0 {
		return fmt.Errorf("the command does not take %s, so that the suite's directory must be put in the place of %s, which needs root: run it as root",
			KubeletDir, kubeletdir.Path)
	}
	return nil
}

// Test runs the quick and crash rules on a plugin as subtests.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// Build builds the program in the directory dir and returns it as a target that gets
// the directory with --kubelet-dir, like plugins with deviceplugin.Main.
func Build(t testing.TB, dir string) Target {
	t.Helper()
	program := filepath.Join(t.TempDir(), "plugin")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %q: %v\n%s", dir, err, out)
	}
	return Target{Exec: []string{program, "--kubelet-dir", KubeletDir}}
}

const (
	api  = "device plugin API"
	docs = "Kubernetes documentation, Device Plugins"
)

func specOf(document, section, sentence string) conformance.Spec {
	version := "v1beta1 (k8s.io/kubelet v0.37)"
	if document == docs {
		version = "1.36"
	}
	return conformance.Spec{Document: document, Version: version, Section: section, Sentence: sentence}
}

// with gives a check a kubelet and the started plugin, and ends both afterwards.
func with(check func(ctx context.Context, b *bench) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) (err error) {
		b, err := start(in)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.stop()) }()
		if err := check(ctx, b); err != nil {
			return b.explain(err)
		}
		return nil
	}
}

// sockets returns the names of the sockets in a directory, but not ours.
func sockets(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for sockets: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 && e.Name() != kubeletSocket {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

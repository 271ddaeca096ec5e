//go:build amd64 || arm64

package oneproc_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type shown struct {
	Procs     int
	Before    string
	Env, Args []string
}

// TestEntry: the runtime finds one processor, and the arguments and the environment as they
// were given, whatever their number and length.
func TestEntry(t *testing.T) {
	file := filepath.Join(t.TempDir(), "show")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-E github.com/nodekit-project/nodekit/internal/oneproc.entry", "-o", file, "./testdata/show")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		args, env []string
		procs     int
		before    string
	}{
		{[]string{"show"}, []string{}, 1, "1"},
		{[]string{"show"}, []string{"A=1"}, 1, "1"},
		{[]string{"show", "x", ""}, []string{"A=1", "GOMAXPROC=3", "B=" + strings.Repeat("b", 1<<16), "GOMAXPROCSX=3"}, 1, "1"},
		{[]string{"show"}, []string{"A=1", "GOMAXPROCS=7", "B=2"}, 7, "7"},
		{[]string{"show"}, []string{"GOMAXPROCS="}, runtime.NumCPU(), ""},
	} {
		cmd := &exec.Cmd{Path: file, Args: c.args, Env: c.env}
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%.60q with %.60q: %v", c.args, c.env, err)
			continue
		}
		var got shown
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(shown{c.procs, c.before, c.env, c.args}, got); diff != "" {
			t.Errorf("%.60q with %.60q: %.2000s", c.args, c.env, diff)
		}
	}
}

// TestWithoutEntry: a program that is linked as usual starts as usual.
func TestWithoutEntry(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "run", "./testdata/show")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=5")
	out, err := cmd.Output()
	var got shown
	if jerr := json.Unmarshal(out, &got); err != nil || jerr != nil || got.Procs != 5 {
		t.Errorf("%v, %v, %s", err, jerr, out)
	}
}

// TestCgo: a program with cgo, which would start without its C library, is not linked.
func TestCgo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-E github.com/nodekit-project/nodekit/internal/oneproc.entry", "-o", filepath.Join(t.TempDir(), "show"), "./testdata/show")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "missing entry symbol") {
		t.Errorf("%v\n%s", err, out)
	}
}

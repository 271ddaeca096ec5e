package crisuite_test

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestSocketThatIsNotTheSuites has commands that run and do not serve the socket
// that they are given: the first rule says so, and the others do not wait for it again.
func TestSocketThatIsNotTheSuites(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := tools(t)
	other := crisuite.Root + "/other.sock"
	runtime := append([]string{filepath.Join(dir, "nodekit")}, runtimeArgs(crisuite.Root, "unix://"+other, nriSocket)...)
	for _, tt := range []struct {
		name    string
		command []string
		says    []string
	}{
		{"another socket", runtime, []string{"the runtime runs, and answers at unix:///", "/other.sock: it must serve unix:///", "it printed:"}},
		{"no socket", []string{"/bin/sh", "-c", "echo started; exec sleep 600", crisuite.Root}, []string{"there was no socket within 20s: it must serve unix:///", "it printed: started"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := crisuite.Target{Exec: tt.command, Program: filepath.Join(dir, "podtool"), NRI: nriSocket}
			report, err := crisuite.Suite().Run(t.Context(), target, &conformance.Options{Only: []string{"CRI-STATUS-*", "CRI-CRASH-001"}, Tier: conformance.Crash, Parallel: 1})
			if err != nil {
				t.Fatal(err)
			}
			longest := slices.MaxFunc(report.Results, func(a, b conformance.Result) int { return cmp.Compare(a.Seconds, b.Seconds) })
			var waited int
			for _, r := range report.Results {
				silent := slices.DeleteFunc(slices.Clone(tt.says), func(text string) bool { return strings.Contains(r.Message, text) })
				if len(silent) > 0 {
					t.Errorf("%s is silent about %q:\n%s", r.ID, silent, r.Message)
				}
				if r.Seconds > longest.Seconds/2 {
					waited++
				}
			}
			if len(report.Results) < 3 || waited > 1 {
				t.Errorf("%d of %d rules waited for the runtime, want the first alone", waited, len(report.Results))
			}
		})
	}
}

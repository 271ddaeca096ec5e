package cnisuite_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestCloses runs a rule that leaves the DELs of two attachments to the lab, on a
// plugin whose DEL hangs, past the rule's time: the run goes on, and nothing of
// the lab stays. The time is enough for the ADDs, without which no DEL is left, and
// less than close gives the DELs.
func TestCloses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	t.Parallel()
	tgt, start := target(t, "hangs-in-del"), time.Now()
	report, err := cnisuite.Suite().Run(t.Context(), tgt, &conformance.Options{Only: []string{"CNI-ADD-004"}, Timeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("the rule and its end took %s: %+v", took, report.Results)
	}
	home := filepath.Dir(tgt.Binary)
	lab, err := os.ReadFile(filepath.Join(home, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(lab)); err == nil {
		t.Errorf("%s is still there", lab)
	}
	below := []string{string(lab)}
	left, err := leak.Take(leak.Scope{
		Kinds: []leak.Kind{leak.Process, leak.Mount, leak.Namespace}, Marker: home, MarkedOnly: true,
		Prefixes: map[leak.Kind][]string{leak.Mount: below, leak.Namespace: below},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []leak.Kind{leak.Process, leak.Mount, leak.Namespace} {
		if names := left.Names(kind); len(names) > 0 {
			t.Errorf("left of kind %s: %q", kind, names)
		}
	}
}

// TestRuleTime ends a rule in the middle of a call: that is no fault of the plugin.
func TestRuleTime(t *testing.T) {
	testenv.Require(t, testenv.Root)
	t.Parallel()
	report, err := cnisuite.Suite().Run(t.Context(), target(t, "slow"), &conformance.Options{Only: []string{"CNI-ADD-001"}, Timeout: 1500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	got := report.Result("CNI-ADD-001")
	if got.Status != conformance.Fail || strings.Contains(got.Message, "did not end within") {
		t.Errorf("%s: %s", got.Status, got.Message)
	}
}

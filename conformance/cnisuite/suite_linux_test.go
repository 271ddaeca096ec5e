package cnisuite_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMutants(t *testing.T) {
	testenv.Require(t, testenv.Root)
	var mutants []conformance.Mutant[cnisuite.Target]
	for _, m := range []struct{ name, rule string }{
		{"forgets-names", "CNI-ENV-001"},
		{"forgets-names", "CNI-ENV-002"},
		{"forgets-names", "CNI-ENV-003"},
		{"forgets-names", "CNI-ENV-004"},
		{"needs-path", "CNI-ENV-005"},
		{"splits-args", "CNI-ENV-006"},
		{"garbage-is-config", "CNI-INPUT-001"},
		{"status-of-any-age", "CNI-INPUT-002"},
		{"any-name", "CNI-INPUT-003"},
		{"code-999-for-config", "CNI-INPUT-004"},
		{"unknown-is-internal", "CNI-INPUT-005"},
		{"refuses-runtime-keys", "CNI-INPUT-006"},
		{"floats", "CNI-INPUT-007"},
		{"always-0", "CNI-EXIT-001"},
		{"result-and-error", "CNI-EXIT-002"},
		{"plain-text", "CNI-ERROR-004"},
		{"code-8", "CNI-ERROR-005"},
		{"writes-to-root", "CNI-PROCESS-001"},
		{"leaves-a-process", "CNI-PROCESS-002"},
		{"dies-of-errors", "CNI-PROCESS-003"},
		{"dawdles", "CNI-PROCESS-004"},
		{"dies-at-once", "CNI-PROCESS-005"},
		{"gives-up-wrongly", "CNI-PROCESS-006"},
		{"needs-path", "CNI-VERSION-002"},
		{"odd-versions", "CNI-VERSION-003"},
		{"hides-versions", "CNI-VERSION-004"},
		{"lists-too-much", "CNI-VERSION-004"},
		{"version-needs-stdin", "CNI-VERSION-005"},
		{"version-makes-links", "CNI-VERSION-006"},
		{"never-ready", "CNI-STATUS-001"},
		{"status-is-internal", "CNI-STATUS-002"},
		{"status-alone", "CNI-STATUS-003"},
		{"status-lies", "CNI-STATUS-004"},
		{"status-is-internal", "CNI-STATUS-005"},
		{"status-of-any-age", "CNI-STATUS-006"},
		{"status-writes", "CNI-STATUS-007"},
		{"status-decides", "CNI-STATUS-008"},
		{"needs-path", "CNI-STATUS-009"},
		{"never-well", "CNI-CHECK-001"},
		{"check-needs-no", "CNI-CHECK-002"},
		{"blind-to-link", "CNI-CHECK-003"},
		{"blind-to-address", "CNI-CHECK-004"},
		{"blind-to-route", "CNI-CHECK-005"},
		{"blind-to-mac", "CNI-CHECK-006"},
		{"blind-to-up", "CNI-CHECK-007"},
		{"blind-to-the-host", "CNI-CHECK-008"},
		{"blind-to-the-host", "CNI-CHECK-009"},
		{"blind-to-the-host", "CNI-CHECK-010"},
		{"blind-to-the-host", "CNI-CHECK-011"},
		{"deaf-to-delegate", "CNI-CHECK-012"},
		{"check-alone", "CNI-CHECK-013"},
		{"jealous", "CNI-CHECK-014"},
		{"check-of-any-age", "CNI-CHECK-015"},
		{"check-writes", "CNI-CHECK-016"},
		{"jumpy", "CNI-CHECK-017"},
		{"check-needs-ipam", "CNI-CHECK-018"},
		{"names-nothing", "CNI-CHECK-019"},
		{"version-of-its-own", "CNI-VERSION-001"},
		{"dies-on-version", "CNI-VERSION-001"},
		{"code-999", "CNI-ERROR-001"},
		{"two-documents", "CNI-ERROR-001"},
		{"no-version", "CNI-ERROR-002"},
		{"any-version", "CNI-ERROR-003"},
		{"forgets-sandbox", "CNI-ADD-001"},
		{"replaces-interface", "CNI-ADD-002"},
		{"del-needs-link", "CNI-DEL-001"},
		{"del-needs-netns", "CNI-DEL-002"},
		{"leaves-a-file", "CNI-DEL-003"},
		{"notes-too-late", "CNI-DEL-004"},
	} {
		mutants = append(mutants, conformance.Mutant[cnisuite.Target]{
			Name: m.name, Rule: m.rule,
			Target: func(t testing.TB) cnisuite.Target {
				t.(*testing.T).Parallel() // each rule has a lab of its own
				return mutant(t, m.name, m.rule)
			},
		})
	}
	conformance.TestMutants(t, cnisuite.Suite(), append(mutants, attachmentMutants()...))
}

// mutant declares what the rule needs to know.
func mutant(t testing.TB, name, rule string) cnisuite.Target {
	tgt := target(t, name)
	switch {
	case name == "needs-path" && rule != "CNI-VERSION-002":
		tgt.Config = `{"state":"${DIR}"}`
	case name == "code-999-for-config":
		tgt.BadConfigs = `[{"ipam":{"type":"suite-ipam"},"state":7}]`
	case name == "status-lies":
		tgt.Kind = cnisuite.IPAM
	}
	return tgt
}

// TestLegal runs the whole suite on plugins that do nothing wrong.
func TestLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for _, name := range []string{"plain", "talks", "exits-with-17", "passes-on", "no-ipam"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tgt := target(t, name)
			switch name {
			case "passes-on":
				tgt.Kind = cnisuite.Chained
			case "no-ipam":
				tgt.Config = ""
			}
			cnisuite.Test(t, tgt)
		})
	}
}

// TestUpstream runs the suite on a plugin that nobody here wrote. It must pass
// what it is known to do well, and be caught where its faults are known: version
// 1.1.1 and later ones answer VERSION with a version of their own.
func TestUpstream(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.CNIPlugins)
	report, err := cnisuite.Suite().Run(t.Context(), cnisuite.Target{
		Binary: "/usr/lib/cni/bridge",
		Config: `{"bridge":"up0","isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"suite-ipam"}}`,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]conformance.Status{
		"CNI-VERSION-001": conformance.Fail,
		"CNI-ERROR-001":   conformance.Pass, "CNI-ERROR-003": conformance.Pass,
		"CNI-ADD-001": conformance.Pass, "CNI-ADD-002": conformance.Pass,
		"CNI-DEL-001": conformance.Pass, "CNI-DEL-003": conformance.Pass,
	} {
		if got := report.Result(id); got.Status != want {
			t.Errorf("%s: %s, want %s: %s", id, got.Status, want, got.Message)
		}
	}
}

func TestQuickDev(t *testing.T) {
	r, err := cnisuite.Suite().Run(t.Context(), target(t, "plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Results {
		t.Logf("%s %s %.2fs %s", x.Status, x.ID, x.Seconds, x.Message)
	}
}

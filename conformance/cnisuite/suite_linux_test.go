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
				return target(t, m.name)
			},
		})
	}
	conformance.TestMutants(t, cnisuite.Suite(), mutants)
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

package csisuite_test

import (
	"os"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/csisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestMain turns the test binary into the driver that a target names.
func TestMain(m *testing.M) {
	if name := os.Getenv("CSISUITE_DRIVER"); name != "" {
		serveDriver(name)
		return
	}
	os.Exit(m.Run())
}

func target(name string) func(testing.TB) csisuite.Target {
	return func(t testing.TB) csisuite.Target {
		t.Helper()
		return csisuite.Target{Exec: []string{os.Args[0]}, Env: []string{"CSISUITE_DRIVER=" + name}}
	}
}

func TestGoodDriverPasses(t *testing.T) {
	csisuite.Test(t, target("good")(t))
}

func TestOddDriverPasses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	report, err := csisuite.Suite().Run(t.Context(), target("odd")(t), &conformance.Options{Tier: conformance.Crash})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if r.Status == conformance.Fail {
			t.Errorf("%s: %s", r.ID, r.Message)
		}
	}
}

func TestMutants(t *testing.T) {
	testenv.Require(t, testenv.Root)
	var mutants []conformance.Mutant[csisuite.Target]
	for _, m := range []struct{ rule, name string }{
		{"CSI-CREATE-001", "makes a new volume for every call"},
		{"CSI-CREATE-002", "takes any size for an existing volume"},
		{"CSI-NODE-001", "publishes a directory without mounting"},
		{"CSI-NODE-002", "publishes read-only volumes writable"},
		{"CSI-NODE-003", "ignores the arguments of a repeated publication"},
		{"CSI-NODE-004", "answers NOT_FOUND to a repeated unpublication"},
		{"CSI-CRASH-001", "keeps its volumes in memory"},
		{"CSI-CRASH-002", "names a volume after it made it"},
		{"CSI-LEAK-001", "leaves a mount in its state directory"},
		{"CSI-LEAK-001", "leaves a file in the staging directory"},
	} {
		mutants = append(mutants, conformance.Mutant[csisuite.Target]{Name: m.name, Rule: m.rule, Target: target(m.name)})
	}
	conformance.TestMutants(t, csisuite.Suite(), mutants)
}

package cniruntimesuite_test

import (
	"os"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cniruntimesuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMain(m *testing.M) {
	cniruntimesuite.Main(os.Args[1:])
	if len(os.Args) == 3 && os.Args[1] == "runtime-verb" {
		os.Exit(runVerb(os.Args[2]))
	}
	os.Exit(m.Run())
}

func TestMutants(t *testing.T) {
	testenv.Require(t, testenv.Root)
	var mutants []conformance.Mutant[cniruntimesuite.Target]
	for _, m := range []struct{ rule, fault string }{
		{"CNIRT-001", "no-netns"},
		{"CNIRT-002", "keeps-netns"},
		{"CNIRT-003", "parallel"},
		{"CNIRT-004", "no-del"},
		{"CNIRT-005", "forgets-begun"},
		{"CNIRT-006", "check-before-add"},
		{"CNIRT-006", "check-after-del"},
		{"CNIRT-007", "second-add"},
		{"CNIRT-008", "code-3"},
		{"CNIRT-009", "no-status"},
		{"CNIRT-010", "add-order"},
		{"CNIRT-011", "del-order"},
		{"CNIRT-012", "check-order"},
		{"CNIRT-013", "ignores-errors"},
		{"CNIRT-014", "check-goes-on"},
		{"CNIRT-015", "ignores-del-errors"},
		{"CNIRT-016", "skips-missing"},
		{"CNIRT-020", "first-result"},
		{"CNIRT-021", "result-of-first"},
		{"CNIRT-022", "del-result"},
		{"CNIRT-023", "check-result"},
		{"CNIRT-024", "result-in-memory"},
		{"CNIRT-025", "args-DEL"},
		{"CNIRT-026", "args-CHECK"},
		{"CNIRT-030", "version"},
		{"CNIRT-031", "name"},
		{"CNIRT-032", "all-capabilities"},
		{"CNIRT-032", "no-capabilities"},
		{"CNIRT-033", "capabilities"},
		{"CNIRT-034", "numbers"},
		{"CNIRT-035", "no-path"},
		{"CNIRT-036", "inside"},
		{"CNIRT-040", "check-disabled"},
		{"CNIRT-041", "not-inlined"},
		{"CNIRT-042", "no-aggregation"},
		{"CNIRT-043", "new-config"},
		{"CNIRT-050", "gc-beside"},
		{"CNIRT-051", "gc-order"},
		{"CNIRT-052", "gc-halts"},
		{"CNIRT-053", "gc-list"},
		{"CNIRT-053", "gc-of-old"},
		{"CNIRT-053", "gc-without-list"},
		{"CNIRT-054", "gc-disabled"},
		{"CNIRT-055", "gc-for-del"},
		{"CNIRT-056", "gc-no-path"},
		{"CNIRT-057", "gc-of-one"},
	} {
		own := m.rule == "CNIRT-001" || m.rule == "CNIRT-002"
		mutants = append(mutants, conformance.Mutant[cniruntimesuite.Target]{
			Name: m.fault, Rule: m.rule,
			Target: func(testing.TB) cniruntimesuite.Target { return faulty(m.fault, own) },
		})
	}
	conformance.TestMutants(t, cniruntimesuite.Suite(), mutants)
}

// TestLegal runs runtimes that do nothing wrong: one that makes the namespaces
// itself (TestOurs is the other kind), and one with habits that nobody expects.
func TestLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	passing := func(ids ...string) map[string]conformance.Status {
		results := map[string]conformance.Status{}
		for _, id := range ids {
			results["CNIRT-"+id] = conformance.Pass
		}
		return results
	}
	expect(t, faulty("", true), passing("001", "002", "003", "004", "005", "007", "011", "015", "024", "032", "036", "043", "050", "055"))
	expect(t, faulty("odd", false), passing("004", "011", "022", "024", "025", "026", "031", "032", "033", "034", "055"))
}

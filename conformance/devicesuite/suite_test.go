package devicesuite_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/devicesuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

const trait = "NODEKIT_TEST_RAW_PLUGIN"

func TestMain(m *testing.M) {
	if t := os.Getenv(trait); t != "" {
		if err := runRaw(t, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func rawPlugin(t testing.TB, name string, patience time.Duration) devicesuite.Target {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return devicesuite.Target{
		Exec:     []string{self, "--kubelet-dir", devicesuite.KubeletDir},
		Env:      []string{trait + "=" + name},
		Patience: patience,
	}
}

// TestLegalPlugins stay green, however odd they are.
func TestLegalPlugins(t *testing.T) {
	for name, rules := range map[string][]string{
		"plain":                {"DEV-*"},
		"odd":                  {"DEV-*"},
		"exits at restarts":    {"DEV-CRASH-*", "DEV-LEAK-*"},
		"nothing healthy":      {"DEV-LIST-*", "DEV-ALLOC-*"},
		"finds devices slowly": {"DEV-CRASH-001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			devicesuite.Suite().Test(t, rawPlugin(t, name, 10*time.Second), &conformance.Options{Only: rules, Tier: conformance.Crash})
		})
	}
}

// TestClosesLate: descriptors that go a while after a restart are no leak.
func TestClosesLate(t *testing.T) {
	t.Parallel()
	report, err := devicesuite.Suite().Run(t.Context(), rawPlugin(t, "closes late", time.Minute), &conformance.Options{Only: []string{"DEV-LEAK-003"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result("DEV-LEAK-003"); r.Status != conformance.Pass {
		t.Errorf("%+v", r)
	}
}

// TestHardCodedDirectory runs a plugin that cannot be told the directory.
func TestHardCodedDirectory(t *testing.T) {
	testenv.Require(t, testenv.Root)
	target := rawPlugin(t, "plain", 10*time.Second)
	target.Exec = target.Exec[:1]
	devicesuite.Suite().Test(t, target, &conformance.Options{Only: []string{"DEV-REG-001", "DEV-CRASH-001"}})
}

func TestMutants(t *testing.T) {
	var mutants []conformance.Mutant[devicesuite.Target]
	for _, m := range []struct{ rule, name, seen string }{
		{"DEV-REG-001", "registers first", "and does not serve"},
		{"DEV-REG-001", "lists nothing", "ListAndWatch sent no list"},
		{"DEV-REG-002", "wrong version", `version is "v1alpha"`},
		{"DEV-REG-002", "endpoint is a path", `/device-plugins/raw.sock", want the name of a socket`},
		{"DEV-REG-002", "resource without domain", `resource "raw": want a name with a domain`},
		{"DEV-LIST-001", "id twice", `"a" is listed twice`},
		{"DEV-LIST-001", "long id", "has 64 characters"},
		{"DEV-LIST-001", "no id", "a device has no id"},
		{"DEV-LIST-001", "health in lower case", `has health "healthy"`},
		{"DEV-ALLOC-001", "answers no container", "answered 0 container responses"},
		{"DEV-REG-001", "never registers", "nobody called Register at /"},
		{"DEV-LIST-002", "lists once", "ListAndWatch ended: EOF; it should stay open"},
		{"DEV-ALLOC-001", "allocates for ever", `device "a" did not answer within `},
		{"DEV-ALLOC-001", "dies of an allocation", "the last time with: exit status 2; it printed last:\npanic: out of devices"},
		{"DEV-ALLOC-003", "relative device", `"null" has the host path "null", want an absolute one`},
		{"DEV-ALLOC-003", "relative mount", `has the container path "lib"`},
		{"DEV-ALLOC-003", "wrong permissions", `"/dev/null" has the permissions "rwx"`},
		{"DEV-ALLOC-003", "short CDI name", `CDI device "a" is no qualified name`},
		{"DEV-PREFER-001", "has no preference", "GetPreferredAllocation of 1 of"},
		{"DEV-PREFER-002", "prefers nothing", `1 of ["a"] preferred []`},
		{"DEV-PREFER-002", "prefers what is not there", `preferred ["z"]`},
		{"DEV-START-001", "has no PreStart", `PreStartContainer of "a", which was allocated: `},
		{"DEV-START-001", "starts for ever", "did not answer within "},
		{"DEV-ALLOC-002", "allocates anything", "which was never listed, succeeded"},
		{"DEV-CRASH-001", "forgets restarts", `down for 0s: resource "example.com/raw" did not register`},
		{"DEV-CRASH-001", "ends its stream", "down for 0s: ListAndWatch ended"},
		{"DEV-CRASH-002", "keeps a stale socket", "address already in use"},
		{"DEV-CRASH-003", "new ids", `"b"] now, and had ["`},
		{"DEV-LEAK-001", "ignores SIGTERM", "did not stop within "},
		{"DEV-LEAK-001", "leaves a process", "left the processes"},
		{"DEV-LEAK-002", "leaves its socket", `left the sockets ["raw.sock"]`},
		{"DEV-LEAK-003", "leaks descriptors", "descriptors after one restart of the kubelet"},
	} {
		mutants = append(mutants, conformance.Mutant[devicesuite.Target]{Name: m.name, Rule: m.rule, Seen: m.seen, Parallel: true, Target: func(t testing.TB) devicesuite.Target {
			return rawPlugin(t, m.name, 3*time.Second)
		}})
	}
	conformance.TestMutants(t, devicesuite.Suite(), mutants)
}

// TestShortRules: when the time of a rule is over before the suite's patience is,
// the failure still says what was waited for.
func TestShortRules(t *testing.T) {
	for name, seen := range map[string]string{
		"never registers":    "the plugin did not register within .*: nobody called Register at ",
		"another endpoint":   `the plugin calls Register for "example.com/raw", and serves nothing at the endpoint "other.sock" that it names`,
		"lists nothing":      "ListAndWatch sent no list within ",
		"allocates for ever": `Allocate of the healthy device "a" did not answer within `,
	} {
		seen := regexp.MustCompile("^not done after 1s: " + seen)
		for _, rule := range []string{"DEV-REG-001", "DEV-ALLOC-001"} {
			if name == "allocates for ever" && rule == "DEV-REG-001" {
				continue // it registers
			}
			t.Run(name+"/"+rule, func(t *testing.T) {
				t.Parallel()
				report, err := devicesuite.Suite().Run(t.Context(), rawPlugin(t, name, 0), &conformance.Options{Only: []string{rule}, Timeout: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				if r := report.Result(rule); r.Status != conformance.Fail || !seen.MatchString(r.Message) {
					t.Errorf("%+v, want a failure that begins with %q", r, seen)
				}
			})
		}
	}
}

func TestWithoutACommand(t *testing.T) {
	report, err := devicesuite.Suite().Run(t.Context(), devicesuite.Target{}, nil)
	if report != nil || err == nil || !strings.Contains(err.Error(), "the target has no command") {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestEndsAtOnce: a program with a wrong flag is no reason to be patient.
func TestEndsAtOnce(t *testing.T) {
	t.Parallel()
	target := devicesuite.Target{Exec: []string{"/bin/sh", "-c", "echo no such flag >&2; exit 2", devicesuite.KubeletDir}, Patience: 5 * time.Minute}
	report, err := devicesuite.Suite().Run(t.Context(), target, &conformance.Options{Only: []string{"DEV-REG-002"}})
	if err != nil {
		t.Fatal(err)
	}
	r := report.Result("DEV-REG-002")
	if r.Status != conformance.Fail || !strings.Contains(r.Message, "each time it was started") || !strings.Contains(r.Message, "the last time with: exit status 2") ||
		strings.Count(r.Message, "no such flag") != 2 { // in the command, and printed once
		t.Errorf("%+v", r)
	}
}

// TestEndedOnce: what is said of the end is true of a plugin that was started again
// and runs.
func TestEndedOnce(t *testing.T) {
	t.Parallel()
	const script = `cd "$0"; [ -e ended ] && exec sleep 60; echo >ended; echo no such driver; exit 3`
	target := devicesuite.Target{Exec: []string{"/bin/sh", "-c", script, devicesuite.KubeletDir}, Patience: 3 * time.Second}
	report, err := devicesuite.Suite().Run(t.Context(), target, &conformance.Options{Only: []string{"DEV-REG-002"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "it ended 1 times, the last time with: exit status 3; it printed last:\nno such driver"
	if r := report.Result("DEV-REG-002"); r.Status != conformance.Fail || !strings.HasSuffix(r.Message, want) {
		t.Errorf("%+v, want %q at the end", r, want)
	}
}

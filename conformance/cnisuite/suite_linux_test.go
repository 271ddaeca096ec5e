package cnisuite_test

import (
	"errors"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// startedAs tells TestUnprivileged how it was started.
const startedAs = "NODEKIT_SUITE_INSIDE"

// allMutants adds those of the rules that are no MUST; make soak sets it.
var allMutants = flag.Bool("all-mutants", false, "prove the rules that are no MUST, too")

func TestMutants(t *testing.T) {
	testenv.Require(t, testenv.Root)
	suite := cnisuite.Suite()
	suite.Rules = slices.DeleteFunc(suite.Rules, func(r conformance.Rule[cnisuite.Target]) bool {
		return r.Level != conformance.Must && !*allMutants
	})
	var mutants []conformance.Mutant[cnisuite.Target]
	for _, m := range append([]fault{
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
		{"leaves-a-stranger", "CNI-PROCESS-002"},
		{"dies-of-errors", "CNI-PROCESS-003"},
		{"dawdles", "CNI-PROCESS-004"},
		{"dies-at-once", "CNI-PROCESS-005"},
		{"gives-up-wrongly", "CNI-PROCESS-006"},
		{"needs-path", "CNI-VERSION-002"},
		{"odd-versions", "CNI-VERSION-003"},
		{"hides-versions", "CNI-VERSION-004"},
		{"lists-too-much", "CNI-VERSION-004"},
		{"lists-the-oldest", "CNI-VERSION-004"},
		{"version-needs-stdin", "CNI-VERSION-005"},
		{"version-makes-links", "CNI-VERSION-006"},
		{"never-ready", "CNI-STATUS-001"},
		{"status-is-internal", "CNI-STATUS-002"},
		{"status-alone", "CNI-STATUS-003"},
		{"status-is-internal", "CNI-STATUS-005"},
		{"status-of-any-age", "CNI-STATUS-006"},
		{"status-writes", "CNI-STATUS-007"},
		{"status-decides", "CNI-STATUS-008"},
		{"needs-path", "CNI-STATUS-009"},
		{"shim", "CNI-STATUS-010"},
		{"never-well", "CNI-CHECK-001"},
		{"checks-newest", "CNI-CHECK-001"},
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
		{"drops-args", "CNI-CHECK-013"},
		{"drops-env", "CNI-CHECK-013"},
		{"jealous", "CNI-CHECK-014"},
		{"jealous-of-interfaces", "CNI-CHECK-014"},
		{"jealous-of-dns", "CNI-CHECK-014"},
		{"knows-all", "CNI-GC-002"},
		{"check-of-any-age", "CNI-CHECK-015"},
		{"check-writes", "CNI-CHECK-016"},
		{"jumpy", "CNI-CHECK-017"},
		{"check-needs-ipam", "CNI-CHECK-018"},
		{"names-nothing", "CNI-CHECK-019"},
		{"slow", "CNI-TIME-001"},
		{"version-of-its-own", "CNI-VERSION-001"},
		{"dies-on-version", "CNI-VERSION-001"},
		{"code-999", "CNI-ERROR-001"},
		{"two-documents", "CNI-ERROR-001"},
		{"no-version", "CNI-ERROR-002"},
		{"errs-in-newest", "CNI-ERROR-002"},
		{"errs-without-version", "CNI-ERROR-002"},
		{"any-version", "CNI-ERROR-003"},
		{"forgets-sandbox", "CNI-ADD-001"},
		{"makes-nothing-in-0.2.0", "CNI-ADD-001"},
		{"replaces-interface", "CNI-ADD-002"},
		{"del-needs-link", "CNI-DEL-001"},
		{"del-needs-netns", "CNI-DEL-018"},
		{"del-demands-netns", "CNI-DEL-002"},
		{"del-demands-CNI_NETNS", "CNI-DEL-002"},
		{"leaves-a-file", "CNI-DEL-003"},
		{"leaves-a-stranger", "CNI-DEL-003"},
		{"notes-too-late", "CNI-DEL-004"},
	}, slices.Concat(harms(), gcFaults(), ipamFaults(), rebootFaults(), portmapFaults(), moreMapFaults())...) {
		mutants = append(mutants, conformance.Mutant[cnisuite.Target]{
			Name: m.name, Rule: m.rule,
			Target: func(t testing.TB) cnisuite.Target {
				t.(*testing.T).Parallel() // each rule has a lab of its own
				return mutant(t, m.name, m.rule)
			},
		})
	}
	mutants = slices.DeleteFunc(append(mutants, attachmentMutants()...), func(m conformance.Mutant[cnisuite.Target]) bool {
		return !slices.ContainsFunc(suite.Rules, func(r conformance.Rule[cnisuite.Target]) bool { return r.ID == m.Rule }) && !*allMutants
	})
	conformance.TestMutants(t, suite, mutants)
}

// mutant declares what the rule needs to know.
func mutant(t testing.TB, name, rule string) cnisuite.Target {
	tgt := target(t, name)
	switch {
	case name == "needs-path" && rule != "CNI-VERSION-002":
		tgt.Config = `{"state":"${DIR}"}`
	case name == "shim":
		tgt.Setup = `sleep 60 & echo $! >"${DIR}/pid"`
	case name == "code-999-for-config":
		tgt.BadConfigs = `[{"ipam":{"type":"suite-ipam"},"state":7}]`
	case strings.HasPrefix(name, "ipam-"):
		declareIPAM(t, &tgt, name)
	case strings.HasPrefix(name, "map-"):
		declarePortmap(&tgt)
	}
	return tgt
}

// TestLegal runs the suite on plugins that do nothing wrong. The rules that kill
// are held against legal plugins by make conformance.
func TestLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for _, name := range []string{"plain", "talks", "careless", "renumbers", "spanning-tree", "userspace", "passthrough", "loopback", "exits-with-17", "passes-on", "no-ipam", "daemon", "check-by-heart", "tells-of-loopback", "labels-the-host-end", "speaks-0.2.0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tgt, opts := target(t, name), &conformance.Options{}
			switch name {
			case "talks":
				opts.Only = []string{"CNI-EXIT-*", "CNI-ADD-0[01]*", "CNI-ADD-02[0-35-7]", "CNI-DEL-00[13]", "CNI-CHECK-00[14]", "CNI-CHECK-01[4-8]"}
			case "careless":
				opts.Only = []string{
					"CNI-EXIT-*", "CNI-ADD-002", "CNI-ADD-01[025]", "CNI-DEL-011", "CNI-DELEGATE-00[124]",
					"CNI-CHECK-00[12]", "CNI-CHECK-01[34]", "CNI-STATUS-001", "CNI-GC-00[26]", "CNI-GC-011",
				}
			case "renumbers":
				chained(&tgt)
				opts.Only = []string{"CNI-ADD-01[23]", "CNI-DEL-005"}
			case "userspace", "passthrough":
				opts.Only = []string{"CNI-ADD-00[1-9]", "CNI-DEL-00[1-3]"}
			case "loopback":
				tgt.IfName, tgt.Config = "lo", ""
				opts.Only = []string{"CNI-ADD-0[01]*", "CNI-ADD-027", "CNI-DEL-00*", "CNI-CHECK-00*", "CNI-CHECK-014", "CNI-ERROR-005"}
			case "spanning-tree":
				opts.Only = []string{"CNI-DATA-001", "CNI-DATA-006"}
			case "exits-with-17":
				opts.Only = []string{"CNI-E[RX]*", "CNI-ENV-00[134]", "CNI-STATUS-00[2-6]"}
			case "passes-on":
				tgt.Kind = cnisuite.Chained
				opts.Only = []string{"CNI-VERSION-004", "CNI-ENV-*", "CNI-ERROR-005", "CNI-ADD-*", "CNI-DEL-00[1-3]", "CNI-STATUS-*", "CNI-CHECK-*", "CNI-PROCESS-00[13]"}
				tgt.RuntimeConfig = `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`
			case "no-ipam":
				tgt.Config = ""
				opts.Only = []string{"CNI-ENV-*", "CNI-VERSION-004", "CNI-ADD-0[01]*", "CNI-ADD-02[0-356]", "CNI-STATUS-*", "CNI-CHECK-01?"}
			case "plain": // it acts on no hardware address that it is asked for
				tgt.RuntimeConfig = `{"mac":"02:00:00:00:bb:01"}`
				opts.Profile = &conformance.Profile{Waivers: map[string]string{"CNI-ADD-019": "it knows no mac"}}
			case "labels-the-host-end":
				chained(&tgt)
				opts.Only = []string{"CNI-EXIT-001", "CNI-ADD-*", "CNI-DEL-*", "CNI-CHECK-*", "CNI-GC-*", "CNI-REBOOT-*"}
			case "speaks-0.2.0":
				opts.Only = []string{"CNI-VERSION-*", "CNI-ADD-*", "CNI-DEL-00*"}
			case "check-by-heart":
				opts.Only = []string{"CNI-CHECK-*"}
			case "tells-of-loopback":
				opts.Tier, opts.Only = conformance.Crash, []string{"CNI-ADD-0[01]*", "CNI-ADD-02[0-35-7]"}
			case "daemon":
				tgt.Config = `{"ipam":{"type":"suite-ipam"},"state":"${DIR}/attachments"}`
				opts.Only = []string{"CNI-ADD-0[01]*", "CNI-ADD-02[0-356]", "CNI-DEL-00[1-3]", "CNI-PROCESS-002"}
				tgt.Setup = `mkdir "${DIR}/attachments" && { while sleep 1; do :; done & echo $! >"${DIR}/pid"; }`
				tgt.Teardown = `kill "$(cat "${DIR}/pid")"`
			}
			cnisuite.Suite().Test(t, tgt, opts)
		})
	}
}

// TestUpstream runs the suite on a plugin that nobody here wrote. It must pass
// what it is known to do well, and be caught where its faults are known: version
// 1.1.1 and later ones answer VERSION with a version of their own.
func TestUpstream(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.CNIPlugins)
	known := map[string]conformance.Status{
		"CNI-VERSION-001": conformance.Fail,
		"CNI-ENV-006":     conformance.Fail, // "A=b=c" is no pair to it
		"CNI-CHECK-017":   conformance.Fail, // a bridge that somebody listens on
		"CNI-CHECK-018":   conformance.Fail, // CHECK without ipam
		"CNI-ERROR-001":   conformance.Pass, "CNI-ERROR-003": conformance.Pass,
		"CNI-CHECK-001": conformance.Pass, "CNI-CHECK-004": conformance.Pass,
		"CNI-ADD-001": conformance.Pass, "CNI-ADD-002": conformance.Pass,
		"CNI-DEL-001": conformance.Pass, "CNI-DEL-003": conformance.Pass,
	}
	report, err := cnisuite.Suite().Run(t.Context(), cnisuite.Target{
		Binary: "/usr/lib/cni/bridge",
		Config: `{"bridge":"up0","isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"suite-ipam"}}`,
	}, &conformance.Options{Only: slices.Collect(maps.Keys(known))})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range known {
		if got := report.Result(id); got.Status != want {
			t.Errorf("%s: %s, want %s: %s", id, got.Status, want, got.Message)
		}
	}
}

// TestUnprivileged runs the suite in namespaces of a user of its own, and
// without them, where it must say what to do.
func TestUnprivileged(t *testing.T) {
	if os.Getenv(startedAs) != "" {
		runInside(t)
		return
	}
	testenv.Require(t, testenv.Root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "suite-unprivileged") // t.TempDir has a parent that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, filepath.Base(self))
	program, err := os.ReadFile(self)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o777), os.WriteFile(binary, program, 0o755), os.Chmod(binary, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	for how, args := range map[string][]string{
		"namespaces": {"unshare", "-Urnm", binary},
		"nothing":    {binary},
	} {
		cmd := exec.Command(args[0], append(args[1:], "-test.run=^TestUnprivileged$", "-test.v")...)
		cmd.Env = append(os.Environ(), startedAs+"="+how, "TMPDIR="+dir)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with %s: %v\n%s", how, err, out)
		}
	}
}

func runInside(t *testing.T) {
	report, err := cnisuite.Suite().Run(t.Context(), target(t, "plain"), &conformance.Options{Only: []string{"CNI-ADD-001", "CNI-DEL-00[13]", "CNI-CHECK-00?"}})
	if os.Getenv(startedAs) == "nothing" {
		if report != nil || err == nil || !strings.Contains(err.Error(), "unshare -Urnm nodekit conform cni") {
			t.Errorf("got %+v and %v, want no report and what to do", report, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range report.Results {
		if result.Status == conformance.Fail {
			t.Errorf("%s: %s: %s", result.ID, result.Status, result.Message)
		}
	}
}

// TestPrepare has what is wrong before the first rule: no rule is to blame the
// plugin for it.
func TestPrepare(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, test := range map[string]struct {
		change func(*cnisuite.Target)
		want   string
	}{
		"no binary":      {func(of *cnisuite.Target) { of.Binary = "/nowhere/plugin" }, "the plugin cannot be executed"},
		"not executable": {func(of *cnisuite.Target) { of.Binary = "/etc/passwd" }, "the plugin cannot be executed"},
		"bad profile":    {func(of *cnisuite.Target) { of.Kind = "strange" }, "none of interface, chained, ipam and meta"},
		"relative path":  {func(of *cnisuite.Target) { of.Path = []string{"plugins"} }, `fact path: "plugins" is relative`},
		"$DIR":           {func(of *cnisuite.Target) { of.Config = `{"state":"$DIR/x"}` }, "write ${DIR}"},
		"bad setup":      {func(of *cnisuite.Target) { of.Setup = "echo no daemon; exit 3" }, "the profile's setup: exit status 3; it printed: no daemon"},
	} {
		of := target(t, "plain")
		test.change(&of)
		report, err := cnisuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CNI-VERSION-001"}})
		if report != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %+v and %v, want no report and %q", name, report, err, test.want)
		}
	}
}

// TestTrialMissesTheDelegate has a profile whose IPAM plugin is not there, which is no
// plugin's fault.
func TestTrialMissesTheDelegate(t *testing.T) {
	testenv.Require(t, testenv.Root)
	of := target(t, "plain")
	of.Config = `{"ipam":{"type":"host-local"}}`
	if err := cnisuite.Trial(t.Context(), of); err == nil || !strings.Contains(err.Error(), `plugin "host-local" is in none of the directories`) || !strings.Contains(err.Error(), "as the fact path") {
		t.Errorf("%v, want what the profile lacks", err)
	}
}

package criclientsuite_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// toolsDir names a folder with the built programs, for a machine without Go.
const toolsDir = "NODEKIT_TEST_TOOLS"

// built is the directory of the programs that the tests have built, "" for none.
var built string

func TestMain(m *testing.M) {
	flag.Parse()
	// Mutants wait more than they work, so that there may be more than processors.
	if err := flag.Set("test.parallel", strconv.Itoa(beside)); err != nil {
		panic(err)
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// program builds nodekit once and returns its path.
var program = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(toolsDir); dir != "" {
		return filepath.Join(dir, "nodekit"), nil
	}
	dir, err := os.MkdirTemp("", "criclientsuite-")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "nodekit")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "../../cmd/nodekit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the kubelet: %w\n%s", err, out)
	}
	return path, nil
})

// command is our own kubelet, with its simulated GPUs for a device.
func command(t testing.TB) criclientsuite.Command {
	t.Helper()
	testenv.Require(t, testenv.Root)
	nodekit, err := program()
	if err != nil {
		t.Fatal(err)
	}
	where := []string{"--runtime-endpoint", criclientsuite.Endpoint, "--root", criclientsuite.State + "/root", "--run", criclientsuite.State + "/run"}
	return criclientsuite.Command{
		Exec:    append([]string{nodekit, "node", "--manifests", criclientsuite.Manifests, "--without", "csi-hostpath"}, where...),
		Cleanup: strings.Join(append([]string{nodekit, "reset"}, where...), " "),
	}
}

// device is what the simulated GPUs are called.
const device = "nodekit.dev/gpu"

// lacking are the features that our kubelet does not have.
func lacking() []criclientsuite.Feature {
	return []criclientsuite.Feature{
		criclientsuite.UserNamespaces, criclientsuite.AppArmor, criclientsuite.LogRotation, criclientsuite.RecursiveReadOnly, criclientsuite.ImageVolumes,
	}
}

func ours(t testing.TB) criclientsuite.Target {
	t.Helper()
	start := command(t).Start
	return criclientsuite.Target{Start: start, Lacks: lacking(), Device: device, Patience: paced(t, patience)}
}

// unmet are the quick SHOULDs that our kubelet does not meet.
func unmet() map[string]bool { return map[string]bool{"CRIC-SBX-019": true} }

// patience is enough for a kubelet that is told of what happens, on a busy machine.
const patience = 16 * time.Second

// ruleTime is the safety net of a rule, whose patience ends it long before.
const ruleTime = 10 * time.Minute

// paced is the time on a machine that takes longer for all it does: as many times longer.
func paced(t testing.TB, of time.Duration) time.Duration {
	t.Helper()
	times, err := pace()
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(times * float64(of))
}

// pace is how many times longer than usual it takes to start nodekit, at least once and at
// most six times: what is waited for in vain takes that long, too.
var pace = sync.OnceValues(func() (float64, error) {
	const starts, usual, most = 20, 20 * time.Millisecond, 6
	nodekit, err := program()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	for range starts {
		if out, err := exec.Command(nodekit, "version").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("starting nodekit: %w\n%s", err, out)
		}
	}
	return min(max(float64(time.Since(begun))/float64(starts*usual), 1), most), nil
})

// beside is how many rules run at a time: they wait more than they work.
const beside = 8

// passes runs rules and fails for each that a kubelet does not pass, although it has
// what the rule is about and is not known to do otherwise.
func passes(t *testing.T, target criclientsuite.Target, unmet map[string]bool, only ...string) {
	t.Helper()
	report, err := criclientsuite.Suite().Run(t.Context(), target, &conformance.Options{Only: only, Parallel: beside, Timeout: ruleTime})
	if err != nil {
		t.Fatal(err)
	}
	for i := range report.Results {
		switch r := &report.Results[i]; r.Status {
		case conformance.Pass:
			if unmet[r.ID] {
				t.Errorf("%s passes: it is met", r.ID)
			}
		case conformance.NA:
			t.Logf("%s does not apply: %s", r.ID, r.Message)
		default:
			if unmet[r.ID] {
				t.Logf("%s is not met: %s", r.ID, r.Message)
				continue
			}
			t.Errorf("%s: %s: %s", r.ID, r.Status, r.Message)
		}
	}
}

// TestEnded has a kubelet that ends at once, for which no rule waits.
func TestEnded(t *testing.T) {
	t.Parallel()
	of := criclientsuite.Target{Start: criclientsuite.Command{Exec: []string{"/bin/sh", "-c", "echo unknown flag; exit 3"}}.Start, Patience: time.Hour}
	report, err := criclientsuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CRIC-SBX-001"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results[0]; r.Status != conformance.Fail || !strings.Contains(r.Message, "and the kubelet has ended") || !strings.Contains(r.Message, "it ended (exit status 3)\nunknown flag") {
		t.Errorf("%s: %s", r.Status, r.Message)
	}
}

// TestKubeletThatLeavesMounts has one that ends with a directory of the machine mounted
// in its own.
func TestKubeletThatLeavesMounts(t *testing.T) {
	testenv.Require(t, testenv.Root)
	t.Parallel()
	dir := t.TempDir()
	precious, place := filepath.Join(dir, "precious"), filepath.Join(dir, "place")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("mkdir $STATE_DIRECTORY/volume && mount --bind %[1]s $STATE_DIRECTORY/volume && echo -n $STATE_DIRECTORY >%[1]s/place", dir)
	of := criclientsuite.Target{Start: criclientsuite.Command{Exec: []string{"/bin/sh", "-c", script}}.Start}
	if _, err := criclientsuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CRIC-SBX-001"}}); err != nil {
		t.Fatal(err)
	}
	state, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(state)); !os.IsNotExist(err) {
		t.Errorf("the kubelet's directory is left: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted is gone: %v", err)
	}
}

// TestOurs holds our kubelet to the quick rules; make conformance does to all.
func TestOurs(t *testing.T) {
	t.Parallel()
	passes(t, ours(t), unmet())
}

package csisuite_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

func TestOddDriversPass(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, applicable := range map[string]int{"odd": 7, "odd, attaches": 9, "odd, its node has no id": 9} {
		t.Run(name, func(t *testing.T) {
			report, err := csisuite.Suite().Run(t.Context(), target(name)(t), &conformance.Options{Tier: conformance.Crash})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range report.Results {
				if r.Status == conformance.Fail {
					t.Errorf("%s: %s", r.ID, r.Message)
				}
			}
			if got := report.Count(conformance.Pass); got < applicable {
				t.Errorf("%d rules passed, %d apply", got, applicable)
			}
		})
	}
}

// TestReadOnlyVolumes: rules that write do not apply.
func TestReadOnlyVolumes(t *testing.T) {
	testenv.Require(t, testenv.Root)
	of := target("good")(t)
	of.Volume.AccessMode = "SINGLE_NODE_READER_ONLY"
	report, err := csisuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CSI-NODE-00[12]"}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := report.Result("CSI-NODE-001"), report.Result("CSI-NODE-002"); a.Status != conformance.NA || b.Status != conformance.Pass {
		t.Errorf("%+v, %+v", a, b)
	}
	of.Volume.AccessMode = "READER"
	report, err = csisuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CSI-NODE-001"}})
	if r := report.Result("CSI-NODE-001"); err != nil || r.Status != conformance.Fail || !strings.Contains(r.Message, "SINGLE_NODE_WRITER") {
		t.Errorf("%v, %+v", err, r)
	}
}

// TestDriverThatEnds: what is said of it begins with how it ended, and not with how
// long the suite would have waited.
func TestDriverThatEnds(t *testing.T) {
	testenv.Require(t, testenv.Root)
	of := csisuite.Target{Exec: []string{"/bin/sh", "-c", "echo no such backend >&2; exit 3"}}
	report, err := csisuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CSI-NODE-001"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "the driver ended (exit status 3) before it was ready\nit printed: no such backend"
	if r := report.Result("CSI-NODE-001"); r.Status != conformance.Fail || r.Message != want {
		t.Errorf("%+v, want %q", r, want)
	}
}

// TestDriverAtAnotherSocket: a driver that serves elsewhere is told where it is looked for.
func TestDriverAtAnotherSocket(t *testing.T) {
	testenv.Require(t, testenv.Root)
	of := csisuite.Target{Exec: []string{"/bin/sh", "-c", "echo serving elsewhere; exec sleep 60"}}
	report, err := csisuite.Suite().Run(t.Context(), of, &conformance.Options{Only: []string{"CSI-NODE-001"}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the driver runs, and makes no socket at /", "CSI_ENDPOINT", "it printed: serving elsewhere"} {
		if r := report.Result("CSI-NODE-001"); r.Status != conformance.Fail || !strings.Contains(r.Message, want) {
			t.Errorf("%+v, want %q", r, want)
		}
	}
}

// sick is a driver that answers Probe with its error, and nothing else.
type sick struct {
	spec.UnimplementedIdentityServer
	err error
}

func (s *sick) Probe(context.Context, *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return nil, s.err
}

// TestUnhealthyEndpoint: a driver that says that it is not healthy gets a report, in which
// each rule says why it was not tried. One without Probe gets none.
func TestUnhealthyEndpoint(t *testing.T) {
	testenv.Require(t, testenv.Root)
	run := func(answer error) (*conformance.Report, error) {
		socket := filepath.Join(t.TempDir(), "csi.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		spec.RegisterIdentityServer(server, &sick{err: answer})
		go func() { _ = server.Serve(l) }() // it ends with Stop
		defer server.Stop()
		return csisuite.Suite().Run(t.Context(), csisuite.Target{Endpoint: "unix://" + socket}, nil)
	}
	report, err := run(status.Error(codes.FailedPrecondition, "no disks"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "not tried, for the driver is not healthy: Probe answered FailedPrecondition (no disks), expected OK"
	for _, r := range report.Results {
		if r.Status != conformance.Fail || r.Message != want {
			t.Errorf("%+v, want %q", r, want)
		}
	}
	if len(report.Results) == 0 {
		t.Error("the report is empty")
	}
	if report, err := run(status.Error(codes.Unimplemented, "no Probe")); report != nil || err == nil || !strings.Contains(err.Error(), "no driver is ready") {
		t.Errorf("without Probe: %+v, %v", report, err)
	}
}

func TestMutants(t *testing.T) {
	testenv.Require(t, testenv.Root)
	var mutants []conformance.Mutant[csisuite.Target]
	for _, m := range []struct{ rule, name, seen string }{
		{"CSI-CREATE-001", "makes a new volume for every call", "two calls with one name"},
		{"CSI-CREATE-002", "takes any size for an existing volume", "with 1 MiB more answered OK"},
		{"CSI-NODE-001", "publishes a directory without mounting", "published at another path: the file"},
		{"CSI-NODE-002", "publishes read-only volumes writable", "a file could be made"},
		{"CSI-NODE-003", "ignores the arguments of a repeated publication", "with readonly=true answered OK"},
		{"CSI-NODE-004", "answers NOT_FOUND to a repeated unpublication", "the second call: NodeUnpublishVolume answered NotFound"},
		{"CSI-CRASH-001", "keeps its volumes in memory", "staging again after the restart: NodeStageVolume answered NotFound"},
		{"CSI-CRASH-002", "names a volume after it made it", "which no answer ever named"},
		{"CSI-LEAK-001", "leaves a mount in its state directory", "left behind: mount"},
		{"CSI-LEAK-001", "leaves a file in the staging directory", "the staging directory is not free"},
	} {
		mutants = append(mutants, conformance.Mutant[csisuite.Target]{Name: m.name, Rule: m.rule, Seen: m.seen, Target: target(m.name)})
	}
	conformance.TestMutants(t, csisuite.Suite(), mutants)
}

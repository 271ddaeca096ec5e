package crisuite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestMain makes the test binary the runtimes under test, too: the suite
// starts it again with the name of a fault.
func TestMain(m *testing.M) {
	if name, ok := os.LookupEnv("CRISUITE_FAKE"); ok {
		if root := os.Getenv("STATE_DIRECTORY"); len(os.Args) != 2 || os.Args[1] != root {
			fmt.Fprintf(os.Stderr, "arguments %q, want the state directory %q\n", os.Args[1:], root)
			os.Exit(2)
		}
		os.Exit(serveFake(name, os.Args[1], os.Getenv("CONTAINER_RUNTIME_ENDPOINT")))
	}
	os.Exit(m.Run())
}

func target(name string) crisuite.Target {
	return crisuite.Target{
		Exec:  []string{os.Args[0], crisuite.Root},
		Env:   []string{"CRISUITE_FAKE=" + name},
		Image: "any", Sleep: []string{"sleep"}, Fail: []string{"fail"}, Print: []string{"print"},
	}
}

func TestConformingRuntime(t *testing.T) { crisuite.Test(t, target("")) }

// A runtime may do all that the odd one does, and the suite must not mind.
func TestOddButLegalRuntime(t *testing.T) { crisuite.Test(t, target("odd")) }

func TestMutants(t *testing.T) {
	mutant := func(rule, name, fault string) conformance.Mutant[crisuite.Target] {
		return conformance.Mutant[crisuite.Target]{
			Name: name, Rule: rule,
			Target: func(testing.TB) crisuite.Target { return target(fault) },
		}
	}
	conformance.TestMutants(t, crisuite.Suite(), []conformance.Mutant[crisuite.Target]{
		mutant("CRI-STATUS-001", "reports one condition", "one condition"),
		mutant("CRI-SBX-001", "does not know a stopped sandbox", "second stop"),
		mutant("CRI-SBX-001", "removes a sandbox once", "second remove"),
		mutant("CRI-SBX-002", "answers before it is ready", "not ready"),
		mutant("CRI-SBX-002", "loses labels", "no labels"),
		mutant("CRI-SBX-003", "filters by one field alone", "one filter"),
		mutant("CRI-SBX-004", "takes any handler for the default", "any handler"),
		mutant("CRI-SBX-005", "knows a sandbox only until it is removed", "stop removed"),
		mutant("CRI-CTR-001", "removes a container once", "second container remove"),
		mutant("CRI-CTR-002", "reports success for every end", "exit 0"),
		mutant("CRI-EXEC-001", "executes with success only", "exec 0"),
		mutant("CRI-EXEC-002", "takes a timeout for an end", "timeout is success"),
		mutant("CRI-IMG-001", "has every image", "any image"),
		mutant("CRI-LOG-001", "logs what is printed as it is", "raw log"),
		mutant("CRI-EVENT-001", "does not tell that containers end", "no stop event"),
		mutant("CRI-CRASH-001", "gives sandboxes new ids when it starts", "new ids"),
		mutant("CRI-CRASH-001", "lists what it does not know", "forgets"),
		mutant("CRI-CRASH-002", "makes a second sandbox of a retry", "two of each"),
		mutant("CRI-LEAK-001", "leaves a process of the sandbox", "leaves process"),
	})
}

// A link's name tells nothing about whose it is: only in a network namespace
// of the runtime's own, which needs root, can the rule blame it.
func TestLeakRuleSeesLinks(t *testing.T) {
	testenv.Require(t, testenv.Root)
	report, err := crisuite.Suite().Run(t.Context(), target("leaves link"), &conformance.Options{Only: []string{"CRI-LEAK-001"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result("CRI-LEAK-001"); r.Status != conformance.Fail || !strings.Contains(r.Message, "3 things") {
		t.Errorf("got %s: %s", r.Status, r.Message)
	}
}

// wire is what a fault does on the way between client and runtime. again is
// true when the runtime was started on this directory before, calls counts the
// calls of the method for one id.
type wire struct {
	method string
	req    proto.Message
	again  bool
	calls  int
}

// faults returns what each fault does to an answer.
func faults() map[string]func(w wire, resp proto.Message, err error) (proto.Message, error) {
	edit := func(change func(wire, proto.Message)) func(wire, proto.Message, error) (proto.Message, error) {
		return func(w wire, resp proto.Message, err error) (proto.Message, error) {
			if err == nil {
				change(w, resp)
			}
			return resp, err
		}
	}
	once := func(method string) func(wire, proto.Message, error) (proto.Message, error) {
		return func(w wire, resp proto.Message, err error) (proto.Message, error) {
			if w.method == method && w.calls > 1 {
				return nil, status.Error(codes.NotFound, "no such object")
			}
			return resp, err
		}
	}
	return map[string]func(wire, proto.Message, error) (proto.Message, error){
		"second stop":             once("StopPodSandbox"),
		"stop removed":            once("StopPodSandbox"),
		"second remove":           once("RemovePodSandbox"),
		"second container remove": once("RemoveContainer"),
		"one condition": edit(func(_ wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.StatusResponse); ok {
				r.Status.Conditions = r.Status.Conditions[:1]
			}
		}),
		"not ready": edit(func(_ wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.PodSandboxStatusResponse); ok {
				r.Status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}
		}),
		"no labels": edit(func(_ wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.PodSandboxStatusResponse); ok {
				r.Status.Labels = nil
			}
		}),
		"exit 0": edit(func(_ wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.ContainerStatusResponse); ok {
				r.Status.ExitCode = 0
			}
		}),
		"exec 0": edit(func(_ wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.ExecSyncResponse); ok {
				r.ExitCode = 0
			}
		}),
		"timeout is success": func(w wire, resp proto.Message, err error) (proto.Message, error) {
			if w.method == "ExecSync" && status.Code(err) == codes.DeadlineExceeded {
				return &runtimeapi.ExecSyncResponse{}, nil
			}
			return resp, err
		},
		"new ids": edit(func(w wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.ListPodSandboxResponse); ok && w.again {
				for _, item := range r.Items {
					item.Id = "new" + item.Id
				}
			}
		}),
		"two of each": edit(func(w wire, m proto.Message) {
			if r, ok := m.(*runtimeapi.ListPodSandboxResponse); ok && w.again {
				for _, item := range r.Items {
					double := proto.Clone(item).(*runtimeapi.PodSandbox)
					double.Id += "again"
					r.Items = append(r.Items, double)
				}
			}
		}),
		"forgets": func(w wire, resp proto.Message, err error) (proto.Message, error) {
			if w.again && w.method == "PodSandboxStatus" {
				return nil, status.Error(codes.NotFound, "no such sandbox")
			}
			return resp, err
		},
		"odd": odd,
	}
}

// request is what a fault does to a request before the runtime sees it.
func request(fault string, req proto.Message) {
	switch r := req.(type) {
	case *runtimeapi.ListPodSandboxRequest:
		if fault == "one filter" && r.Filter.GetId() != "" {
			r.Filter.State, r.Filter.LabelSelector = nil, nil
		}
	case *runtimeapi.RunPodSandboxRequest:
		if fault == "any handler" {
			r.RuntimeHandler = ""
		}
	}
}

// odd is legal: lists in another order, more conditions, labels of its own,
// and codes that the CRI says nothing about.
func odd(w wire, resp proto.Message, err error) (proto.Message, error) {
	if w.method == "PodSandboxStatus" && err != nil {
		return nil, status.Error(codes.Unknown, "the sandbox is unknown to me")
	}
	switch r := resp.(type) {
	case *runtimeapi.ListPodSandboxResponse:
		for i, j := 0, len(r.Items)-1; i < j; i, j = i+1, j-1 {
			r.Items[i], r.Items[j] = r.Items[j], r.Items[i]
		}
	case *runtimeapi.StatusResponse:
		r.Status.Conditions = append([]*runtimeapi.RuntimeCondition{{Type: "Odd", Message: "legal"}}, r.Status.Conditions...)
	case *runtimeapi.VersionResponse:
		r.Version, r.RuntimeName, r.RuntimeVersion = "v1", "an odd runtime", "0.0.0-0+odd"
	case *runtimeapi.PodSandboxStatusResponse:
		r.Status.Labels["odd.example.com/added"] = "yes"
		r.ContainersStatuses, r.Timestamp = nil, 0
	}
	return resp, err
}

func started(root string) (again bool) {
	file := filepath.Join(root, "started")
	if _, err := os.Stat(file); err == nil {
		return true
	}
	return os.WriteFile(file, nil, 0o600) != nil
}

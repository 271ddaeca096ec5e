package crisuite_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

const oddName = "is odd but legal"

func oddRuntime() fault {
	return fault{answer: odd, request: oddRequest, streamed: oddStream, plugged: oddPlugged}
}

// A runtime may do all that the odd one does, and the suite must not mind. make soak
// kills it, too.
func TestOddButLegalRuntime(t *testing.T) {
	if *allMutants {
		crisuite.Suite().Test(t, mutantProgram(t, mutant{name: oddName}), &conformance.Options{Tier: conformance.Crash})
		return
	}
	target := newHost(t, reference(t)).mutant(t, mutant{fault: oddRuntime()})
	crisuite.Suite().Test(t, target, &conformance.Options{Only: append([]string{"CRI-*"}, "CRI-CONC-001", "CRI-CONC-002", "CRI-CONC-003", "CRI-CONC-004")})
}

// odd lists in another order, has more conditions, labels and images than were asked for,
// refuses what is repeated, and has codes that nobody asks for.
func odd(c *exchange, resp proto.Message, err error) (proto.Message, error) {
	if err != nil {
		if code := status.Code(err); code == codes.InvalidArgument || code == codes.FailedPrecondition {
			return nil, status.Error(codes.Unknown, "I would rather not: "+err.Error())
		}
		return resp, err
	}
	switch r := resp.(type) {
	case *runtimeapi.ListPodSandboxResponse:
		slices.Reverse(r.Items)
	case *runtimeapi.ListContainersResponse:
		slices.Reverse(r.Containers)
	case *runtimeapi.StatusResponse:
		r.Status.Conditions = append([]*runtimeapi.RuntimeCondition{{Type: "Odd", Message: "legal"}}, r.Status.Conditions...)
		r.RuntimeHandlers = append(r.RuntimeHandlers, &runtimeapi.RuntimeHandler{Name: "odd"})
	case *runtimeapi.VersionResponse:
		r.Version, r.RuntimeName, r.RuntimeVersion = "0.1.0", "an odd runtime", "v0.0.0-0+odd"
	case *runtimeapi.PodSandboxStatusResponse:
		if r.Status.Labels == nil {
			r.Status.Labels = map[string]string{}
		}
		r.Status.Labels["odd.example.com/added"] = "yes"
		r.ContainersStatuses, r.Timestamp = nil, 0
	case *runtimeapi.ContainerStatusResponse:
		r.Status.Message = "as odd as ever"
	case *runtimeapi.ListImagesResponse:
		if c.req.(*runtimeapi.ListImagesRequest).GetFilter() == nil {
			r.Images = append(r.Images, &runtimeapi.Image{Id: "sha256:odd", Size: 1})
		}
	}
	return resp, nil
}

// oddRequest refuses to make a container or a sandbox that is there.
func oddRequest(c *exchange, _ proto.Message) (proto.Message, error) {
	if c.calls > 1 && (c.method == "RunPodSandbox" || c.method == "CreateContainer") {
		return nil, status.Error(codes.AlreadyExists, "it is there")
	}
	return nil, nil
}

// oddStream sends each item in a message of its own.
func oddStream(_ *exchange, m proto.Message) []proto.Message {
	r, ok := m.(*runtimeapi.StreamContainersResponse)
	if !ok {
		return []proto.Message{m}
	}
	var all []proto.Message
	for _, item := range r.Containers {
		all = append(all, &runtimeapi.StreamContainersResponse{Containers: []*runtimeapi.Container{item}})
	}
	return all
}

// oddPlugged tells a plugin that connects in two messages what is there, in another order
// and with what others have made, and adds to what containers are.
func oddPlugged(c *plugged) (any, error) {
	if c.method != "Synchronize" {
		return c.next(func(req any) {
			if r, ok := req.(*api.CreateContainerRequest); ok && r.Container.Labels != nil {
				r.Container.Labels["odd.example.com/added"] = "yes"
				r.Container.Env = append([]string{"ODD=yes"}, r.Container.Env...)
			}
		})
	}
	req := &api.SynchronizeRequest{}
	if err := c.read(req); err != nil {
		return nil, err
	}
	slices.Reverse(req.Pods)
	slices.Reverse(req.Containers)
	first := &api.SynchronizeRequest{Pods: append(req.Pods, &api.PodSandbox{Id: "another's"}), More: true}
	if answer, err := c.plugin.Synchronize(c.ctx, first); err != nil {
		return answer, err
	}
	rest := append(req.Containers, &api.Container{Id: "another's", PodSandboxId: "another's"})
	return c.plugin.Synchronize(c.ctx, &api.SynchronizeRequest{Containers: rest})
}

// slowRuntime takes seconds until a subscription stands and a command runs, as a machine
// may that does much else, and tells a subscriber first what there is. It serves before it
// is ready to answer.
func slowRuntime() fault {
	return fault{
		request: func(c *exchange, _ proto.Message) (proto.Message, error) {
			switch c.method {
			case "Version":
				if c.calls > 1 && c.calls < 6 { // the first asks whether the proxy is there
					return nil, errors.New("it is not initialised yet")
				}
			case "GetContainerEvents":
				time.Sleep(2 * time.Second)
			case "ExecSync":
				time.Sleep(4 * time.Second)
			}
			return nil, nil
		},
		streamed: func(c *exchange, m proto.Message) []proto.Message {
			if _, ok := m.(*event); !ok || !c.once(fmt.Sprintf("%p", c)) {
				return []proto.Message{m}
			}
			var all []proto.Message
			sandboxes, err := c.rt.ListPodSandbox(c.ctx, &runtimeapi.ListPodSandboxRequest{})
			if err != nil {
				return []proto.Message{m}
			}
			for _, sb := range sandboxes.Items {
				all = append(all, &event{
					ContainerId: sb.Id, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, CreatedAt: sb.CreatedAt,
					PodSandboxStatus: &runtimeapi.PodSandboxStatus{Id: sb.Id, Metadata: sb.Metadata},
				})
			}
			return append(all, m)
		},
	}
}

// TestSlowRuntime holds that the suite takes slowness for no fault where it has no rule
// about time.
func TestSlowRuntime(t *testing.T) {
	target := newHost(t, reference(t)).mutant(t, mutant{fault: slowRuntime()})
	crisuite.Suite().Test(t, target, &conformance.Options{Only: []string{"CRI-EVENT-*", "CRI-EXEC-012"}, Tier: conformance.Crash})
}

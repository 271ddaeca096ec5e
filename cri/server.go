package cri

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/images"
	"github.com/nodekit-project/nodekit/cri/internal/info"
	"github.com/nodekit-project/nodekit/cri/internal/metrics"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/stats"
	"github.com/nodekit-project/nodekit/cri/internal/stream"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/call"
)

// server is the RuntimeService. The embedded types answer the calls that only read
// (Reader, Reporter, Collector) or stream (Server). Its own calls change something and
// follow one pattern: find the object, pass its sandbox's gate, and then, detached from
// the client, record the intent, call the author, and record and publish the result.
type server struct {
	unsupported
	*state.Reader
	*stream.Server
	*stats.Reporter
	*metrics.Collector

	rt     *Runtime
	log    *slog.Logger
	table  *state.Table
	events *event.Hub
	images *images.Server
	calls  *flight.Group
	wishes wishes
	// patience ends when the server begins to stop: what is still waiting for its turn
	// then may give up.
	patience context.Context
	hurry    context.CancelFunc
}

// unsupported serves the calls that no other embedded type does. It is embedded deeper
// than those.
type unsupported struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

// newServer returns a server that does not listen yet, not even for streams.
func newServer(base context.Context, rt *Runtime, records *record.Dir, log *slog.Logger) *server {
	s := &server{rt: rt, log: log, events: event.NewHub(), calls: flight.NewGroup(base)}
	s.patience, s.hurry = context.WithCancel(base)
	s.table = state.NewTable(records, s.events, log)
	s.Reader = state.NewReader(s.table, s.infos())
	var functions images.Functions
	if rt.Images != nil {
		functions = images.Functions(*rt.Images)
	}
	s.Server = stream.New(base, s.streams(), s.calls, log)
	s.Reporter = stats.NewReporter(s.usage(), s.table, log)
	s.Collector = s.collector()
	handlers := func(name string) error { _, err := rt.handler(name); return err }
	s.images = images.NewServer(functions, handlers, s.calls, log)
	return s
}

// alone passes the sandbox's gate alone and runs f detached from the client.
func (s *server) alone(client context.Context, sb *state.Sandbox, f func(context.Context) error) error {
	leave, err := sb.Gate.Alone(client)
	if err != nil {
		return err
	}
	return s.inside(client, sb, leave, func(ctx context.Context) error { return f(aloneIn(ctx, sb)) })
}

// inside runs f detached from the client and then leaves the gate. A server that is
// stopping refuses f and does not leave the gate: nobody enters after it.
func (s *server) inside(client context.Context, sb *state.Sandbox, leave func(), f func(context.Context) error) error {
	return s.calls.Do(client, func(ctx context.Context) error {
		defer leave()
		return f(podContext(ctx, sb.Now()))
	})
}

// rollbackTime bounds the rollback of a failed creation, which must continue even if the
// context of the creation has ended.
const rollbackTime = 30 * time.Second

func rollbackContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
}

// undone returns the error of a creation, with that of undoing it, if any. Its kind,
// which tells the caller what to do, is that of the first alone.
func undone(err, undoing error) error {
	if undoing == nil {
		return err
	}
	return fmt.Errorf("%w; %s", err, undoing.Error())
}

// guard calls a function of the author.
func (s *server) guard(name string, f func() error) error { return flight.Guard(s.log, name, f) }

// hand is guard for a function whose arguments are recorded afterwards.
func (s *server) hand(name string, f func() error, given ...pinned) error {
	for _, g := range given {
		defer g.pin()()
	}
	return s.guard(name, f)
}

// podContext attributes the author's own calls to the sandbox's Pod.
func podContext(ctx context.Context, s *record.Sandbox) context.Context {
	m := s.Config.GetMetadata()
	return call.WithPod(ctx, call.Pod{Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid()})
}

func unimplemented(what string) error {
	return ErrUnimplemented.Errorf("%s: this runtime does not support it", what)
}

// Version returns the runtime's name and version.
func (s *server) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: s.rt.Name, RuntimeVersion: s.rt.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status reports RuntimeReady, which is true while the server answers, and NetworkReady.
func (s *server) Status(ctx context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if s.rt.NetworkReady != nil {
		if err := s.guard("NetworkReady", func() error { return s.rt.NetworkReady(ctx) }); err != nil {
			network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", record.Text(err.Error())
		}
	}
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, network,
		}},
	}
	s.rt.describe(resp)
	if req.GetVerbose() {
		var ask func() map[string]any
		if s.rt.Info.Runtime != nil {
			ask = func() map[string]any { return s.rt.Info.Runtime(ctx) }
		}
		resp.Info = info.Of(s.log, nil, "Info.Runtime", ask)
	}
	return resp, nil
}

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: s.rt.CgroupDriver}}, nil
}

// UpdateRuntimeConfig passes the Pod CIDRs to the author. Without a function for them,
// the network configuration determines the addresses.
func (s *server) UpdateRuntimeConfig(ctx context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	cidr := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	ranges, err := validate.PodCIDR(cidr)
	if err != nil {
		return nil, err
	}
	switch {
	case len(ranges) == 0:
	case s.rt.SetPodCIDR == nil:
		s.log.InfoContext(ctx, "pod cidr not used: the network configuration has its own", "cidr", cidr)
	default:
		err = s.calls.Do(ctx, func(ctx context.Context) error {
			return s.guard("SetPodCIDR", func() error { return s.rt.SetPodCIDR(ctx, ranges) })
		})
	}
	if err != nil {
		return nil, fmt.Errorf("setting the pod cidr %q: %w", cidr, err)
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

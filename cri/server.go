package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/call"
)

// server is the RuntimeService. Its calls that change something follow one
// pattern: find the object, pass its sandbox's gate, then go on detached from
// the client: write the intent, call the author, write and publish the result.
type server struct {
	runtimeapi.UnimplementedRuntimeServiceServer

	rt      *Runtime
	log     *slog.Logger
	records records
	index   *index
	events  *hub
	flights flights
	streams *streams

	// base is the context of detached calls; it ends when the server stops.
	base  context.Context
	calls sync.WaitGroup
}

func newServer(base context.Context, rt *Runtime, r records, log *slog.Logger) *server {
	return &server{
		rt: rt, log: log, records: r, base: base,
		index: newIndex(), events: newHub(), flights: flights{byKey: map[string]*flight{}},
	}
}

// rollbackTime bounds the undoing of a failed creation, which must go on when
// the context that the creation had has ended.
const rollbackTime = 30 * time.Second

func rollbackContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
}

// detach runs f to its end, also when the client gives up waiting.
func (s *server) detach(client context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	s.calls.Go(func() { done <- f(s.base) })
	select {
	case err := <-done:
		return err
	case <-client.Done():
		return client.Err()
	}
}

// guard calls a function of the author. A panic becomes an error, because it
// must not end the containers' server.
func (s *server) guard(name string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the runtime panicked", "function", name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s panicked: %v", name, p)
		}
	}()
	return f()
}

// podContext attributes what the author calls in turn to the sandbox's Pod.
func podContext(ctx context.Context, s *Sandbox) context.Context {
	m := s.Config.GetMetadata()
	return call.WithPod(ctx, call.Pod{Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid()})
}

// flights lets a repeated creation join the one that is under way.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

type flight struct {
	done chan struct{}
	id   string
	err  error
}

// fly runs create, detached, unless one of the same key is in flight, and
// waits for its result.
func (s *server) fly(client context.Context, key string, create func(context.Context) (string, error)) (string, error) {
	s.flights.mu.Lock()
	f := s.flights.byKey[key]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flights.byKey[key] = f
		s.calls.Go(func() {
			f.id, f.err = create(s.base)
			s.flights.mu.Lock()
			delete(s.flights.byKey, key)
			s.flights.mu.Unlock()
			close(f.done)
		})
	}
	s.flights.mu.Unlock()
	select {
	case <-f.done:
		return f.id, f.err
	case <-client.Done():
		return "", client.Err()
	}
}

// newID returns an id of the length that tools expect of container runtimes.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

func unimplemented(what string) error {
	return ErrUnimplemented.Errorf("%s: this runtime does not support it", what)
}

// Version answers with the runtime's name and version.
func (s *server) Version(_ context.Context, req *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: s.rt.Name, RuntimeVersion: s.rt.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status reports RuntimeReady, which holds while the server answers, and
// NetworkReady.
func (s *server) Status(ctx context.Context, _ *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if s.rt.NetworkReady != nil {
		if err := s.rt.NetworkReady(ctx); err != nil {
			network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
		}
	}
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, network,
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Features: &runtimeapi.RuntimeHandlerFeatures{}}},
		Features:        &runtimeapi.RuntimeFeatures{},
	}
	for _, h := range s.rt.Handlers {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtimeapi.RuntimeHandler{Name: h, Features: &runtimeapi.RuntimeHandlerFeatures{}})
	}
	return resp, nil
}

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: s.rt.CgroupDriver}}, nil
}

// UpdateRuntimeConfig accepts the Pod CIDR and does nothing with it: the CNI
// configuration decides about addresses.
func (s *server) UpdateRuntimeConfig(ctx context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	s.log.InfoContext(ctx, "pod cidr not used: the network configuration has its own", "cidr", req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// logged reports an error that no caller will see.
func (s *server) logged(ctx context.Context, msg string, err error, args ...any) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.ErrorContext(ctx, msg, append(args, "err", err)...)
	}
}

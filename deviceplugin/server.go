package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// server is the DevicePlugin service of one session: from the creation of a socket
// until the kubelet restarts.
type server struct {
	api.UnimplementedDevicePluginServer
	plugin  *Plugin
	devices *inventory
	log     *slog.Logger
	stop    <-chan struct{} // closed when the session ends

	mu      sync.Mutex
	streams int           // open ListAndWatch streams
	watched bool          // a stream has been open before
	changed chan struct{} // holds a token when streams has changed
}

func newServer(p *Plugin, devices *inventory, log *slog.Logger, stop <-chan struct{}) *server {
	return &server{plugin: p, devices: devices, log: log, stop: stop, changed: make(chan struct{}, 1)}
}

func optionsOf(p *Plugin) *api.DevicePluginOptions {
	return &api.DevicePluginOptions{
		PreStartRequired:                p.PreStart != nil,
		GetPreferredAllocationAvailable: p.Prefer != nil,
	}
}

// GetDevicePluginOptions returns the options that the plugin's functions imply.
func (s *server) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return optionsOf(s.plugin), nil
}

// ListAndWatch sends the full list, and again after each change, until the kubelet ends
// the stream or the session ends.
func (s *server) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	s.count(+1)
	defer s.count(-1)
	for {
		list, changed := s.devices.get()
		if list != nil {
			if err := stream.Send(list); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		case <-s.stop:
			return fault.Unavailable.Errorf("the plugin stops serving here")
		}
	}
}

func (s *server) count(delta int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams += delta
	s.watched = true
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// open reports whether the kubelet watches now, and whether it has ever watched.
func (s *server) open() (now, ever bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams > 0, s.watched
}

// Allocate returns one response for each container request, in order.
func (s *server) Allocate(ctx context.Context, in *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for _, r := range in.GetContainerRequests() {
		ids, err := s.devices.known(r.GetDevicesIds(), true)
		if err != nil {
			return nil, err
		}
		one, err := s.allocate(ctx, ids)
		if err != nil {
			return nil, fmt.Errorf("allocating %q: %w", ids, err)
		}
		out.ContainerResponses = append(out.ContainerResponses, one)
	}
	return out, nil
}

func (s *server) allocate(ctx context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
	if s.plugin.Allocate == nil || len(ids) == 0 {
		return &api.ContainerAllocateResponse{}, nil
	}
	a, err := s.plugin.Allocate(ctx, ids)
	if err != nil {
		return nil, err
	}
	return responseOf(a)
}

// GetPreferredAllocation calls Prefer and enforces the contract of Preference on its
// answers.
func (s *server) GetPreferredAllocation(ctx context.Context, in *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	if s.plugin.Prefer == nil {
		return nil, fault.Unimplemented.Errorf("the plugin has no preference")
	}
	out := &api.PreferredAllocationResponse{}
	for _, r := range in.GetContainerRequests() {
		p := Preference{Available: r.GetAvailableDeviceIDs(), Must: r.GetMustIncludeDeviceIDs(), Count: int(r.GetAllocationSize())}
		if err := p.validate(); err != nil {
			return nil, err
		}
		ids, err := s.plugin.Prefer(ctx, p)
		if err = errors.Join(err, p.check(ids)); err != nil {
			ids = p.any()
			s.log.Error("the plugin's preference is replaced by any choice", "err", err, "ids", ids)
		}
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

// PreStartContainer calls PreStart for the devices of a container.
func (s *server) PreStartContainer(ctx context.Context, in *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	ids, err := s.devices.known(in.GetDevicesIds(), false) // PreStart may be what repairs a device
	if err != nil {
		return nil, err
	}
	if s.plugin.PreStart != nil {
		if err := s.plugin.PreStart(ctx, ids); err != nil {
			return nil, fmt.Errorf("preparing %q: %w", ids, err)
		}
	}
	return &api.PreStartContainerResponse{}, nil
}

// validate rejects a request that has no valid answer.
func (p Preference) validate() error {
	for _, id := range p.Must {
		if !slices.Contains(p.Available, id) {
			return fault.Invalid.Errorf("device %q must be included and is not available", id)
		}
	}
	if p.Count < len(p.Must) || p.Count > len(p.Available) {
		return fault.Invalid.Errorf("no choice of %d devices: %d are available and %d must be included", p.Count, len(p.Available), len(p.Must))
	}
	return nil
}

// check validates an answer.
func (p Preference) check(ids []string) error {
	chosen := map[string]bool{}
	for _, id := range ids {
		if chosen[id] || !slices.Contains(p.Available, id) {
			return fault.Internal.Errorf("preferred device %q is not available, or chosen twice", id)
		}
		chosen[id] = true
	}
	for _, id := range p.Must {
		if !chosen[id] {
			return fault.Internal.Errorf("device %q must be included and is not preferred", id)
		}
	}
	if len(ids) != p.Count {
		return fault.Internal.Errorf("%d devices are preferred, want %d", len(ids), p.Count)
	}
	return nil
}

// any returns all of Must, followed by the first available devices.
func (p Preference) any() []string {
	out := slices.Clone(p.Must)
	for _, id := range p.Available {
		if len(out) < p.Count && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

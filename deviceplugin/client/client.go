// Package client is the kubelet's side of the device plugin API (k8s.io/kubelet
// deviceplugin/v1beta1): one Endpoint for each plugin instance that has registered.
//
// An Endpoint stands for an instance, not for a resource name: when a plugin restarts,
// the end of the old instance says nothing about the new one. Code that stores
// endpoints must compare them by identity.
//
// The package makes no decisions about devices: kubelet/device does.
// conformance/devicesuite speaks the protocol directly.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// The kubelet itself bounds only PreStartContainer (constants.go, 30 s) and its dial.
// The other timeouts keep a plugin that hangs from blocking its Pods forever.
const (
	optionsTimeout  = 10 * time.Second
	allocateTimeout = time.Minute
	preferTimeout   = 10 * time.Second
	preStartTimeout = api.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
)

// Device is one device, as listed by its plugin.
type Device struct {
	ID      string
	Healthy bool
	NUMA    []int // empty if the plugin reported no affinity
	// Odd describes what the plugin probably did not mean to list; "" means nothing.
	Odd string
}

// Options configures Connect. Nil means the defaults.
type Options struct {
	// Devices is called with each list that the plugin sends, one call at a time, and
	// once with nil after the stream has ended. Watch requires it.
	Devices func(e *Endpoint, devices []Device)
	// Observe is notified of calls. Nil means no observer.
	Observe *call.Observer
	// Logger receives the mistakes of the plugin. Nil discards them.
	Logger *slog.Logger
}

// Endpoint is a registered instance of a device plugin. It is safe for concurrent use.
type Endpoint struct {
	resource, socket string
	options          *api.DevicePluginOptions
	opts             Options
	conn             *grpc.ClientConn
	plugin           api.DevicePluginClient
	cancel           context.CancelFunc
	ctx              context.Context // ends with Close
	watching         sync.WaitGroup
}

// Connect connects to the instance that serves the resource at socket, an absolute
// path, and gets its options. If the instance does not answer within 10 s, Connect
// returns an error and no Endpoint.
func Connect(ctx context.Context, resource, socket string, opts *Options) (*Endpoint, error) {
	e := &Endpoint{resource: resource, socket: socket}
	if opts != nil {
		e.opts = *opts
	}
	if e.opts.Logger == nil {
		e.opts.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := rpc.Dial(socket, "deviceplugin", e.opts.Observe)
	if err != nil {
		return nil, fmt.Errorf("connecting to the device plugin of %q: %w", resource, err)
	}
	e.conn, e.plugin = conn, api.NewDevicePluginClient(conn)
	ctx, cancel := context.WithTimeout(ctx, optionsTimeout)
	defer cancel()
	if e.options, err = e.plugin.GetDevicePluginOptions(ctx, &api.Empty{}); err != nil {
		err = fmt.Errorf("GetDevicePluginOptions of %q at %q: %w", resource, socket, err)
		return nil, errors.Join(err, conn.Close())
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return e, nil
}

// Resource returns the resource that the instance serves.
func (e *Endpoint) Resource() string { return e.resource }

// Socket returns the path of the instance's socket.
func (e *Endpoint) Socket() string { return e.socket }

// NeedsPreStart reports whether the plugin requires PreStart before each start of a
// container.
func (e *Endpoint) NeedsPreStart() bool { return e.options.GetPreStartRequired() }

// HasPreference reports whether the plugin implements Prefer.
func (e *Endpoint) HasPreference() bool { return e.options.GetGetPreferredAllocationAvailable() }

// Watch starts ListAndWatch and returns; Options.Devices receives the lists. The stream
// is opened once: a plugin whose stream has ended registers again.
func (e *Endpoint) Watch() {
	e.watching.Go(func() {
		err := e.receive()
		if e.ctx.Err() == nil {
			e.opts.Logger.Warn("the device plugin ended ListAndWatch", "resource", e.resource, "socket", e.socket, "err", err)
		}
		e.opts.Devices(e, nil)
	})
}

func (e *Endpoint) receive() error {
	stream, err := e.plugin.ListAndWatch(e.ctx, &api.Empty{})
	if err != nil {
		return err
	}
	for {
		list, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return rpc.FromStatus(err)
		}
		e.opts.Devices(e, e.devices(list))
	}
}

// devices converts a list. As in the kubelet, the last of several devices with the same
// id counts, and any health but "Healthy" is unhealthy. The result is never nil.
func (e *Endpoint) devices(list *api.ListAndWatchResponse) []Device {
	out := make([]Device, 0, len(list.GetDevices()))
	at := map[string]int{}
	for _, d := range list.GetDevices() {
		one := Device{ID: d.GetID(), Healthy: d.GetHealth() == api.Healthy}
		for _, n := range d.GetTopology().GetNodes() {
			if n.GetID() >= 0 {
				one.NUMA = append(one.NUMA, int(n.GetID()))
			}
		}
		switch health := d.GetHealth(); {
		case one.ID == "":
			one.Odd = "its id is empty"
		case health != api.Healthy && health != api.Unhealthy:
			one.Odd = fmt.Sprintf("its health is %q, and %q alone counts as healthy", health, api.Healthy)
		}
		if i, ok := at[one.ID]; ok {
			one.Odd = strings.TrimPrefix(one.Odd+" and it is listed more than once, of which the last counts", " and ")
			e.opts.Logger.Warn("the device plugin lists a device twice", "resource", e.resource, "device", one.ID)
			out[i] = one
			continue
		}
		at[one.ID] = len(out)
		out = append(out, one)
	}
	return out
}

// Allocate asks the plugin what one container needs to use the devices. An answer
// without a response for the container is an error.
func (e *Endpoint) Allocate(ctx context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	out, err := e.plugin.Allocate(ctx, &api.AllocateRequest{
		ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: ids}},
	})
	if err != nil {
		return nil, fmt.Errorf("Allocate of %q for %q: %w", e.resource, ids, err)
	}
	if n := len(out.GetContainerResponses()); n != 1 {
		return nil, fault.Internal.Errorf("Allocate of %q for %q: the plugin answered %d container responses, want 1", e.resource, ids, n)
	}
	return out.GetContainerResponses()[0], nil
}

// Prefer asks the plugin which count of the available devices are best, including those
// in must. The answer is returned unchecked and may break the rules.
func (e *Endpoint) Prefer(ctx context.Context, available, must []string, count int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, preferTimeout)
	defer cancel()
	out, err := e.plugin.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{
		ContainerRequests: []*api.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs:   available,
			MustIncludeDeviceIDs: must,
			AllocationSize:       int32(count),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("GetPreferredAllocation of %q: %w", e.resource, err)
	}
	if len(out.GetContainerResponses()) == 0 {
		return nil, nil
	}
	return slices.Clone(out.GetContainerResponses()[0].GetDeviceIDs()), nil
}

// PreStart tells the plugin that a container with the devices is about to start.
func (e *Endpoint) PreStart(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, preStartTimeout)
	defer cancel()
	if _, err := e.plugin.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: ids}); err != nil {
		return fmt.Errorf("PreStartContainer of %q for %q: %w", e.resource, ids, err)
	}
	return nil
}

// Close ends the stream and closes the connection. Options.Devices may be called until
// Close returns, so Close must not be called from it.
func (e *Endpoint) Close() error {
	e.cancel()
	err := e.conn.Close()
	e.watching.Wait()
	return err
}

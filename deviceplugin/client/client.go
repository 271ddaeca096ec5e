// Package client is the kubelet's side of the device plugin API
// (k8s.io/kubelet deviceplugin/v1beta1): one Endpoint for each instance of a
// plugin that registered.
//
// An Endpoint stands for an instance, not for a resource name: when a plugin
// restarts, the end of the old instance says nothing about the new one. Whoever
// keeps endpoints compares them by identity.
//
// The package does not decide anything about devices: kubelet/device does, and
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

// The kubelet itself bounds only PreStartContainer (constants.go, 30 s) and its
// dial. The others keep a plugin that hangs from blocking its Pods for ever.
const (
	optionsTimeout  = 10 * time.Second
	allocateTimeout = time.Minute
	preferTimeout   = 10 * time.Second
	preStartTimeout = api.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
)

// Device is one device as its plugin lists it.
type Device struct {
	ID      string
	Healthy bool
	NUMA    []int // empty when the plugin gave no affinity
	// Odd says what its plugin probably did not mean to list; "" is nothing.
	Odd string
}

// Options are the options of Connect; nil means the defaults.
type Options struct {
	// Devices is called with each list that the plugin sends, one call at a
	// time, and once with nil after the stream ended. Required to Watch.
	Devices func(e *Endpoint, devices []Device)
	// Observe is told of calls.
	Observe *call.Observer
	// Logger gets what the plugin does wrong. Nil discards.
	Logger *slog.Logger
}

// Endpoint is a registered instance of a device plugin. Its methods may be
// called concurrently.
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

// Connect connects to the instance that serves the resource at socket, an
// absolute path, and asks for its options. An instance that does not answer
// within 10 s is an error, and is not in use then.
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

// NeedsPreStart reports whether the plugin wants PreStart before each start of
// a container.
func (e *Endpoint) NeedsPreStart() bool { return e.options.GetPreStartRequired() }

// HasPreference reports whether the plugin answers Prefer.
func (e *Endpoint) HasPreference() bool { return e.options.GetGetPreferredAllocationAvailable() }

// Watch opens ListAndWatch and returns; Options.Devices gets what comes. The
// stream is opened once: a plugin whose stream ended registers again.
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

// devices reads a list. As in the kubelet, of devices with one id the last
// counts, and any health but "Healthy" is unhealthy. The result is never nil.
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

// Allocate asks what one container needs to use the devices. An answer without
// a response for the container is an error.
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

// Prefer asks which count of the available devices are best, those in must
// among them. The answer is the plugin's and may break the rules.
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

// PreStart tells the plugin that a container that holds the devices is about to
// start.
func (e *Endpoint) PreStart(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, preStartTimeout)
	defer cancel()
	if _, err := e.plugin.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: ids}); err != nil {
		return fmt.Errorf("PreStartContainer of %q for %q: %w", e.resource, ids, err)
	}
	return nil
}

// Close ends the stream and the connection. Options.Devices may be called until
// it returns, so it must not be called from there.
func (e *Endpoint) Close() error {
	e.cancel()
	err := e.conn.Close()
	e.watching.Wait()
	return err
}

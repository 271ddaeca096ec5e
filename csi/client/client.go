// Package client is the orchestrator's side of the Container Storage Interface v1.13: a
// connection to one driver, the driver's capabilities, the calls with their place in
// the specification's state machine, and the error classes that decide what must be
// undone.
//
// Every call is idempotent, so the specification asks nothing of a caller that it
// cannot do after a crash: a caller that does not know the outcome of a call
// (Uncertain) either repeats it or calls its inverse, and never forgets it. This
// package keeps no state; its user must record an intent before each call (see
// internal/journal).
//
// A Client is safe for concurrent use.
package client

import (
	"context"
	"errors"
	"slices"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// DefaultTimeout bounds one call: two minutes, as in the kubelet.
const DefaultTimeout = 2 * time.Minute

// Options configures Dial. Nil means the defaults.
type Options struct {
	// Observe is notified of calls. Nil means no observer.
	Observe *call.Observer
	// Timeout bounds each call; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Client is a connection to a driver's socket. The fields are the raw clients of the
// specification's services; the methods are what an orchestrator does with them.
type Client struct {
	Identity   spec.IdentityClient
	Controller spec.ControllerClient
	Node       spec.NodeClient

	conn    *grpc.ClientConn
	timeout time.Duration
}

// Dial returns a client for a unix endpoint. It does not wait: the first call connects,
// and the client reconnects to a driver that restarts.
func Dial(endpoint string, o *Options) (*Client, error) {
	if o == nil {
		o = &Options{}
	}
	conn, err := rpc.Dial(endpoint, "csi", o.Observe)
	if err != nil {
		return nil, err
	}
	c := &Client{
		Identity: spec.NewIdentityClient(conn), Controller: spec.NewControllerClient(conn), Node: spec.NewNodeClient(conn),
		conn: conn, timeout: o.Timeout,
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	return c, nil
}

// Close closes the connection. Calls in flight end with an Uncertain error.
func (c *Client) Close() error { return c.conn.Close() }

// Info describes a driver and this node, as reported by the driver.
type Info struct {
	Name, Version string
	HasNode       bool   // the driver has a node part
	NodeID        string // "" without a node part, or if it does not report one
	Controller    []spec.ControllerServiceCapability_RPC_Type
	Node          []spec.NodeServiceCapability_RPC_Type
}

// Can reports whether the driver advertises the controller capability.
func (i *Info) Can(t spec.ControllerServiceCapability_RPC_Type) bool {
	return slices.Contains(i.Controller, t)
}

// NodeCan reports whether the driver advertises the node capability.
func (i *Info) NodeCan(t spec.NodeServiceCapability_RPC_Type) bool {
	return slices.Contains(i.Node, t)
}

// GetInfo asks the driver for everything that an orchestrator needs to know before it
// makes other calls.
func (c *Client) GetInfo(ctx context.Context) (*Info, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	plugin, err := c.Identity.GetPluginInfo(ctx, &spec.GetPluginInfoRequest{})
	if err != nil {
		return nil, err
	}
	info := &Info{Name: plugin.GetName(), Version: plugin.GetVendorVersion()}
	plugCaps, err := c.Identity.GetPluginCapabilities(ctx, &spec.GetPluginCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	for _, p := range plugCaps.GetCapabilities() {
		if p.GetService().GetType() != spec.PluginCapability_Service_CONTROLLER_SERVICE {
			continue
		}
		list, err := c.Controller.ControllerGetCapabilities(ctx, &spec.ControllerGetCapabilitiesRequest{})
		if err != nil {
			return nil, err
		}
		for _, r := range list.GetCapabilities() {
			info.Controller = append(info.Controller, r.GetRpc().GetType())
		}
	}
	return info, c.addNode(ctx, info)
}

func (c *Client) addNode(ctx context.Context, info *Info) error {
	list, err := c.Node.NodeGetCapabilities(ctx, &spec.NodeGetCapabilitiesRequest{})
	if errors.Is(err, fault.Unimplemented) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range list.GetCapabilities() {
		info.Node = append(info.Node, r.GetRpc().GetType())
	}
	info.HasNode = true
	node, err := c.Node.NodeGetInfo(ctx, &spec.NodeGetInfoRequest{})
	if errors.Is(err, fault.Unimplemented) {
		return nil // "A Node Plugin MUST implement this RPC call if the plugin has PUBLISH_UNPUBLISH_VOLUME", and may else
	}
	info.NodeID = node.GetNodeId()
	return err
}

// Ready calls Probe until the driver is ready or ctx ends. It returns at once an error
// that is not Uncertain.
func (c *Client) Ready(ctx context.Context) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		once, cancel := c.bound(ctx)
		p, err := c.Identity.Probe(once, &spec.ProbeRequest{}, grpc.WaitForReady(true))
		cancel()
		// "If the field is not set, the CO SHALL assume that the plugin is ready."
		if err == nil && (p.GetReady() == nil || p.GetReady().GetValue()) {
			return nil
		}
		if err != nil && !Uncertain(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// Uncertain reports whether err leaves the outcome open: the driver may have performed
// the operation, or may still be performing it. The caller must repeat the call or call
// the inverse, and must not forget the volume until one of them has succeeded. Any
// other error is final: the driver says that it has not performed the operation. The
// classes are the kubelet's.
func Uncertain(err error) bool {
	if err == nil {
		return false
	}
	s, ok := status.FromError(err)
	if !ok {
		return true // not an answer of the driver
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.Unknown:
		return true
	}
	return false
}

func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// Package client dials the CRI endpoint (cri-api v0.37, runtime.v1) of any runtime. The
// kubelet, the conformance suite and tests use it.
//
// Errors have the kinds of internal/fault, which the cri package exports:
// errors.Is(err, cri.ErrNotFound) and errors.Is(err, context.DeadlineExceeded) work for
// errors returned by the server. The package does not interpret answers, retry or set
// deadlines, except where a function's comment says so.
//
// A Client is safe for concurrent use.
package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// Options configures Dial. Nil means the defaults.
type Options struct {
	// Observe is notified of calls. Nil means no observer.
	Observe *call.Observer
}

// Client is a connection to one endpoint. It reconnects to a runtime that restarts;
// calls in the meantime fail with fault.Unavailable.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient

	conn *grpc.ClientConn
}

// Dial returns a client for a unix endpoint ("unix:///run/x.sock" or an absolute path).
// It does not wait for the server; Wait does.
func Dial(endpoint string, o *Options) (*Client, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	conn, err := rpc.Dial(endpoint, "cri", opts.Observe)
	if err != nil {
		return nil, fmt.Errorf("dialling the runtime: %w", err)
	}
	return &Client{
		Runtime: runtimeapi.NewRuntimeServiceClient(conn),
		Images:  runtimeapi.NewImageServiceClient(conn),
		conn:    conn,
	}, nil
}

// Close closes the connection and ends every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// Wait calls Version until the server answers, and returns the answer. If ctx ends
// first, it returns the last error. It returns at once any error that waiting cannot
// resolve.
func (c *Client) Wait(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	for {
		v, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, fault.Unavailable) {
			return nil, fmt.Errorf("asking the runtime for its version: %w", err)
		}
		c.conn.ResetConnectBackoff() // or a runtime that comes is noticed up to a second late
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the runtime: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Events subscribes to container events and passes each to handle, in order, until ctx
// ends (nil) or the stream breaks (an error: subscribe and list again, since events in
// between are lost). ready, if not nil, is called when the subscription is established,
// before the first event: every later change is in the stream. If the runtime does not
// confirm subscriptions, ready is called no later than the first event.
func (c *Client) Events(ctx context.Context, ready func(), handle func(*runtimeapi.ContainerEventResponse)) error {
	// A server that knew of a deadline would end the stream itself, a moment
	// before ctx ends, and nobody could tell that from a stream that broke.
	timeless, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	stream, err := c.Runtime.GetContainerEvents(timeless, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return eventError(ctx, err)
	}
	if _, err := stream.Header(); err != nil {
		return eventError(ctx, err)
	}
	if ready != nil {
		ready()
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return eventError(ctx, err)
		}
		handle(e)
	}
}

func eventError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("receiving container events: %w", rpc.FromStatus(err))
}

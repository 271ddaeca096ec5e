// Package client dials a CRI endpoint (cri-api v0.37, runtime.v1), of any
// runtime: the kubelet, the conformance suite and tests reach runtimes with it.
//
// Errors have the kinds of internal/fault, which the cri package exports:
// errors.Is(err, cri.ErrNotFound) and errors.Is(err, context.DeadlineExceeded)
// hold for what the server answered. The package does not interpret answers,
// retry or set deadlines, with the exceptions named at its functions.
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

// Options of a client. Nil means the defaults.
type Options struct {
	// Observe is told of calls. Nil means nobody.
	Observe *call.Observer
}

// Client is a connection to one endpoint. A runtime that restarts is
// reconnected to; calls meanwhile fail with fault.Unavailable.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient

	conn *grpc.ClientConn
}

// Dial returns a client of a unix endpoint ("unix:///run/x.sock" or an
// absolute path). It does not wait for the server; Wait does.
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

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// Wait calls Version until the server answers, and returns its answer. It
// returns the last error when ctx ends first, and at once an error that
// waiting cannot mend.
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

// Events subscribes to container events and hands each to handle, in order,
// until ctx ends (nil) or the stream breaks (an error: subscribe and list
// again, for events in between are lost). ready, unless nil, is called when the
// subscription stands and before the first event: what changes from then on is
// in the stream. Runtimes that do not confirm a subscription get ready called
// with the first event at the latest.
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

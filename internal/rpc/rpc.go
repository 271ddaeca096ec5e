// Package rpc is the gRPC plumbing that CRI, CSI and device plugins share: endpoints
// on unix sockets, one interceptor on each side, and the one table between error
// kinds (internal/fault) and gRPC codes.
//
// Server side: a handler's error kind becomes its code, a panic becomes Internal and
// the server continues, each call is logged in one debug line. Client side: the code
// becomes the kind again, and the call is attributed to the Pod of its context
// (internal/call) and reported to the Observer.
package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/panics"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// MaxMessage is the size limit for messages in both directions, in bytes: the
// 16 MiB that the kubelet uses for CRI.
const MaxMessage = 16 << 20

// SocketPath returns the file of a unix endpoint: "unix:///run/x.sock",
// "unix:/run/x.sock" or an absolute path.
func SocketPath(endpoint string) (string, error) {
	p := endpoint
	if rest, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		p = rest
		if after, ok := strings.CutPrefix(rest, "//"); ok {
			p = after
		}
	}
	if !strings.HasPrefix(p, "/") {
		return "", fault.Invalid.Errorf("endpoint %q: want unix:///absolute/path.sock", endpoint)
	}
	if len(p) > 107 {
		return "", fault.Invalid.Errorf("endpoint %q: the path has %d bytes, and unix(7) allows 107: choose a shorter directory", endpoint, len(p))
	}
	return p, nil
}

// Check reports why Listen would refuse the endpoint even if nobody listens there,
// and changes nothing. See sockfile.Check.
func Check(endpoint string) error {
	p, err := SocketPath(endpoint)
	if err != nil {
		return err
	}
	return sockfile.Check(p)
}

// Listen listens on a unix endpoint that only its owner can access. A socket file
// that nobody serves any more is replaced; if somebody serves it, the error is
// fault.AlreadyExists. Closing the listener removes the file if it is still its own.
// See sockfile.Listen.
func Listen(endpoint string) (net.Listener, error) {
	p, err := SocketPath(endpoint)
	if err != nil {
		return nil, err
	}
	l, err := sockfile.Listen(p)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// ServerOptions returns the options with which every server of the kit is created. If
// log is nil, nothing is logged.
func ServerOptions(family string, log *slog.Logger) []grpc.ServerOption {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	in := &serverSide{family: family, log: log}
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.ChainUnaryInterceptor(in.unary), grpc.ChainStreamInterceptor(in.stream),
	}
}

// Serve serves on l until ctx ends; it then lets calls in flight finish for up to
// grace, and returns nil. Otherwise it returns the listener's error.
func Serve(ctx context.Context, s *grpc.Server, l net.Listener, grace time.Duration) error {
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(grace, s.Stop)
		s.GracefulStop()
		t.Stop()
	})
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving %q: %w", l.Addr(), err)
	}
	return nil
}

// Dial returns a connection to a unix endpoint. It does not wait for the peer: the
// first call connects, and the connection is re-established when a peer restarts.
func Dial(endpoint, family string, observe *call.Observer) (*grpc.ClientConn, error) {
	p, err := SocketPath(endpoint)
	if err != nil {
		return nil, err
	}
	in := &clientSide{family: family, plugin: p, observe: observe}
	// The path is dialled unchanged: as a target it would be parsed as a URL.
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p)
	}
	return grpc.NewClient("passthrough:///localhost", grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(quickReconnect()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithChainUnaryInterceptor(in.unary), grpc.WithChainStreamInterceptor(in.stream))
}

type serverSide struct {
	family string
	log    *slog.Logger
}

func (s *serverSide) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() { err = s.finish(ctx, info.FullMethod, start, recover(), err) }()
	return next(traced(ctx), req)
}

// traced makes the calls that this one causes part of the caller's trace, which a
// stock kubelet sends.
func traced(ctx context.Context) context.Context {
	first := func(name string) string {
		if v := metadata.ValueFromIncomingContext(ctx, name); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	return call.WithTrace(ctx, call.Trace{Parent: first("traceparent"), State: first("tracestate")})
}

func (s *serverSide) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	start := time.Now()
	defer func() { err = s.finish(ss.Context(), info.FullMethod, start, recover(), err) }()
	return next(srv, ss)
}

func (s *serverSide) finish(ctx context.Context, method string, start time.Time, panicked any, err error) error {
	if panicked != nil {
		p := panics.Of(panicked)
		s.log.ErrorContext(ctx, "handler panicked", "method", method, "panic", p.Value, "stack", p.Stack())
		err = fault.Internal.Errorf("%s panicked at %s: see the log of the plugin", path.Base(method), p.Place())
	}
	err = fault.Readable(path.Base(method), err)
	s.log.DebugContext(ctx, "rpc", "family", s.family, "method", path.Base(method), "dur", time.Since(start), "err", err)
	return ToStatus(err)
}

type clientSide struct {
	family, plugin string
	observe        *call.Observer
}

func (c *clientSide) begin(ctx context.Context, method string) call.Open {
	return c.observe.Begin(ctx, call.Call{Family: c.family, Plugin: c.plugin, Method: path.Base(method)})
}

func (c *clientSide) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	this := c.begin(ctx, method)
	err := FromStatus(invoke(ctx, method, req, reply, cc, opts...))
	this.Done(ctx, err)
	return err
}

func (c *clientSide) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	this := c.begin(ctx, method)
	s, err := open(ctx, desc, cc, method, opts...)
	err = FromStatus(err)
	this.Done(ctx, err)
	return s, err
}

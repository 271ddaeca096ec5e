// Package relay forwards CRI calls from one unix socket to another and lets its owner
// see, hold, alter or answer each of them. The recording runtime of the suite for CRI
// clients is one, and so are the mutants that prove that suite and the one for
// runtimes. It knows the methods only from the descriptors of cri-api, so that new
// ones are forwarded too.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "k8s.io/cri-api/pkg/apis/runtime/v1" // registers the messages

	"github.com/nodekit-project/nodekit/internal/rpc"
)

// Call is one call on its way. Its request may be altered before it is forwarded.
type Call struct {
	Method  string // "RunPodSandbox"
	Request proto.Message

	full   string
	answer protoreflect.MessageType
}

// Next forwards the call and returns the server's answer.
type Next func(ctx context.Context) (proto.Message, error)

// Send sends a message of a stream to the client.
type Send func(proto.Message) error

// Stream forwards a call with a stream of answers until the stream ends. It calls
// each with one message after the other; each sends to the client what should replace
// the message, or is Send to forward all unchanged.
type Stream func(ctx context.Context, each Send) error

// Hooks are called for every call, concurrently. A nil hook forwards calls. Errors
// are sent with the codes that package rpc gives them.
type Hooks struct {
	Unary  func(ctx context.Context, c *Call, next Next) (proto.Message, error)
	Stream func(ctx context.Context, c *Call, send Send, next Stream) error
}

// Relay forwards calls to one server. It is safe for concurrent use.
type Relay struct {
	hooks Hooks
	conn  *grpc.ClientConn
}

// New returns a relay to the server at an endpoint. The server may start later, and
// may go away and come back. Close releases the relay.
func New(to string, h Hooks) (*Relay, error) {
	conn, err := rpc.Dial(to, "cri", nil)
	if err != nil {
		return nil, err
	}
	return &Relay{hooks: h, conn: conn}, nil
}

// Close closes the connection to the server.
func (r *Relay) Close() error { return r.conn.Close() }

// Conn returns the connection to the server, for the owner's own calls, which bypass
// the hooks.
func (r *Relay) Conn() grpc.ClientConnInterface { return r.conn }

// Serve serves on an endpoint until stop is called, which aborts the calls in flight,
// as the death of a server does, and removes the socket.
func (r *Relay) Serve(endpoint string) (stop func() error, err error) {
	l, err := rpc.Listen(endpoint)
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer(grpc.UnknownServiceHandler(r.pass), grpc.MaxRecvMsgSize(rpc.MaxMessage), grpc.MaxSendMsgSize(rpc.MaxMessage))
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	return sync.OnceValue(func() error {
		g.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serving %q: %w", endpoint, err)
		}
		return nil
	}), nil
}

// pass is the handler of every method: on the wire a unary call is also a stream.
func (r *Relay) pass(_ any, from grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(from)
	c, method, err := newCall(full)
	if err != nil {
		return err
	}
	if err := from.RecvMsg(c.Request); err != nil {
		return err
	}
	if method.IsStreamingServer() {
		return rpc.ToStatus(r.stream(c, from))
	}
	next := func(ctx context.Context) (proto.Message, error) { return r.Invoke(ctx, c) }
	var answer proto.Message
	if r.hooks.Unary != nil {
		answer, err = r.hooks.Unary(from.Context(), c, next)
	} else {
		answer, err = next(from.Context())
	}
	if err != nil {
		return rpc.ToStatus(err)
	}
	return from.SendMsg(answer)
}

// Invoke sends the call's current request.
func (r *Relay) Invoke(ctx context.Context, c *Call) (proto.Message, error) {
	answer := c.answer.New().Interface()
	if err := r.conn.Invoke(ctx, c.full, c.Request, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

func (r *Relay) stream(c *Call, from grpc.ServerStream) error {
	send := func(m proto.Message) error { return from.SendMsg(m) }
	next := func(ctx context.Context, each Send) error { return r.copyStream(ctx, c, from, each) }
	if r.hooks.Stream != nil {
		return r.hooks.Stream(from.Context(), c, send, next)
	}
	return next(from.Context(), send)
}

func (r *Relay) copyStream(ctx context.Context, c *Call, from grpc.ServerStream, each Send) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	to, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, c.full)
	if err != nil {
		return err
	}
	if err := errors.Join(to.SendMsg(c.Request), to.CloseSend()); err != nil {
		return err
	}
	if _, err := to.Header(); err != nil { // the client may wait for the header: it means that the subscription is established
		return rpc.FromStatus(err)
	}
	if err := from.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		m := c.answer.New().Interface()
		err := to.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return rpc.FromStatus(err)
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// newCall returns a call of the method ("/runtime.v1.X/Y") with an empty request.
func newCall(full string) (*Call, protoreflect.MethodDescriptor, error) {
	service, name := path.Split(full)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(path.Base(service) + "." + name))
	if err != nil {
		return nil, nil, status.Error(codes.Unimplemented, full)
	}
	method, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, nil, status.Error(codes.Unimplemented, full)
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		return nil, nil, err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	return &Call{Method: name, Request: in.New().Interface(), full: full, answer: out}, method, err
}

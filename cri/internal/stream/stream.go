// Package stream serves what a person or a probe does inside a container: exec, attach
// and port-forward of the CRI (cri-api v0.37), over HTTP with the protocols of kubectl
// (k8s.io/cri-streaming), and ExecSync, which returns the output.
//
// HTTP is served on a loopback address with a port chosen by the kernel; a URL carries a
// token that can be used once, within a minute. The package runs nothing itself:
// Functions do. A Server is safe for concurrent use.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Functions are what a Server serves. Exec, Attach and PortForward may be nil; they are
// then Unimplemented.
type Functions struct {
	// Exec runs a command and returns its exit code. When ctx ends, with the client or
	// the server, the command is killed.
	Exec        func(ctx context.Context, containerID string, cmd []string, s Streams) (code int32, err error)
	Attach      func(ctx context.Context, containerID string, s Streams) error
	PortForward func(ctx context.Context, sandboxID string, port int32, conn io.ReadWriteCloser) error
	// Running and Ready return an error for a container or sandbox in which there is
	// nothing to stream, before a URL is given out.
	Running func(containerID string) error
	Ready   func(sandboxID string) error
}

// Streams are the ends of an exec or attach. A nil stream was not requested.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	// Sizes delivers terminal sizes; nil without TTY. See Latest.
	Sizes <-chan Size
}

// Size is a terminal's size in characters.
type Size = remotecommand.TerminalSize

// Server serves the streaming calls of the RuntimeService. New creates it.
type Server struct {
	functions Functions
	calls     *flight.Group
	base      context.Context
	log       *slog.Logger
	urls      streaming.Server
	http      *http.Server
	clients   clients
}

// New returns a server that serves ExecSync, and the other calls after Start. base ends
// when the server stops for good; ExecSync's commands run in calls.
func New(base context.Context, f Functions, calls *flight.Group, log *slog.Logger) *Server {
	return &Server{functions: f, calls: calls, base: base, log: log}
}

// Start listens, unless no function needs it, and serves until Close.
func (s *Server) Start() error {
	if f := s.functions; f.Exec == nil && f.Attach == nil && f.PortForward == nil {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for streams: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = l.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	if s.urls, err = streaming.NewServer(config, runtime{s}); err != nil {
		return errors.Join(fmt.Errorf("making the streaming server: %w", err), l.Close())
	}
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadTimeout: requestLimit,
		BaseContext: func(net.Listener) context.Context { return s.base }, ConnContext: s.clients.join,
	}
	go func() {
		if err := s.http.Serve(listener{l, &s.clients}); !errors.Is(err, http.ErrServerClosed) {
			s.log.ErrorContext(s.base, "serving streams", "err", err)
		}
	}()
	return nil
}

// requestLimit is how long a client may take for its request, and keep an idle
// connection: every user of the machine can connect. It does not apply to a stream that
// has begun.
const requestLimit = 10 * time.Second

// Close stops giving out streams. Streams in progress end with the server's base context.
func (s *Server) Close() {
	if s.http == nil {
		return
	}
	if err := s.http.Close(); err != nil {
		s.log.ErrorContext(s.base, "closing the streaming server", "err", err)
	}
}

// Exec returns the URL at which the command will run.
func (s *Server) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if s.functions.Exec == nil {
		return nil, unsupported("Exec")
	}
	if err := validate.Command(req.GetCmd()); err != nil {
		return nil, err
	}
	if err := s.functions.Running(req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.urls.GetExec(req)
}

// Attach returns the URL at which the container's streams will be.
func (s *Server) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if s.functions.Attach == nil {
		return nil, unsupported("Attach")
	}
	if err := s.functions.Running(req.GetContainerId()); err != nil {
		return nil, err
	}
	resp, err := s.urls.GetAttach(req)
	if err == nil && !req.GetStdin() {
		resp.Url += withoutStdin
	}
	return resp, err
}

// withoutStdin ends the path of an attach without standard input. For a WebSocket, the
// streaming server passes an input that is already at its end, as if the client had
// closed it.
const withoutStdin = "/without-stdin"

type withoutStdinKey struct{}

// serve passes a request on to the streaming server.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if path, ok := strings.CutSuffix(r.URL.Path, withoutStdin); ok {
		r = r.Clone(context.WithValue(r.Context(), withoutStdinKey{}, true))
		r.URL.Path = path
	}
	s.urls.ServeHTTP(w, r)
}

// PortForward returns the URL at which the ports will be.
func (s *Server) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if s.functions.PortForward == nil {
		return nil, unsupported("PortForward")
	}
	if err := s.functions.Ready(req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	for _, p := range req.GetPort() {
		if p < 1 || p > 65535 {
			return nil, fault.Invalid.Errorf("port %d: it is out of range", p)
		}
	}
	return s.urls.GetPortForward(req)
}

func unsupported(what string) error {
	return fault.Unimplemented.Errorf("%s: this runtime does not support it", what)
}

// runtime is what the streaming server calls for a token.
type runtime struct{ s *Server }

// Exec runs the command. The streaming server sends the code of an exitError to the
// client.
func (r runtime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan Size) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := r.s.functions.Exec(ctx, id, cmd, Streams{in, out, errOut, tty, sizes})
	if err == nil && code != 0 {
		return exitError(code)
	}
	return r.told(ctx, err)
}

// told drops the error if the client has gone, which would only be logged by the
// streaming server.
func (r runtime) told(ctx context.Context, err error) error {
	if ctx.Err() != nil && r.s.base.Err() == nil {
		return nil
	}
	return err
}

// Attach connects to the container's streams.
func (r runtime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan Size) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ctx.Value(withoutStdinKey{}) != nil {
		in = nil
	}
	return r.told(ctx, r.s.functions.Attach(ctx, id, Streams{in, out, errOut, tty, sizes}))
}

// PortForward carries one connection. What a client sent before it went away is still
// passed on; only then does ctx end, because there is nobody left to answer.
func (r runtime) PortForward(ctx context.Context, id string, port int32, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.s.base, cancel)()
	client, over := r.s.clients.of(conn), make(chan func() bool, 1)
	defer func() {
		select {
		case stop := <-over:
			stop()
		default:
		}
	}()
	once := sync.OnceFunc(func() { over <- context.AfterFunc(client, cancel) })
	err := r.s.functions.PortForward(ctx, id, port, &upload{conn, once})
	if s, ok := conn.(interface{ Reset() error }); ok && err == nil {
		// Nobody reads what the client still sends: it would block other streams of the
		// same connection, which share one queue. The Close lets the client see a clean
		// end.
		_ = conn.Close()
		_ = s.Reset()
	}
	return err
}

// Latest passes on the values of in until it is closed or ctx ends, and keeps only the
// latest one for a slow reader. A nil channel stays nil.
func Latest[From, To any](ctx context.Context, in <-chan From, convert func(From) To) <-chan To {
	if in == nil {
		return nil
	}
	out := make(chan To, 1)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case v, ok := <-in:
				if !ok {
					return
				}
				select {
				case <-out: // drop the one that was not read
				default:
				}
				out <- convert(v)
			}
		}
	}()
	return out
}

// exitError has the methods by which the streaming server recognizes an exit code.
type exitError int32

func (e exitError) Error() string {
	return fmt.Sprintf("command terminated with exit code %d", int32(e))
}
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e) }

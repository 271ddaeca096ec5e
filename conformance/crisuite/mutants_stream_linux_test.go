package crisuite_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// streamed edits requests for streams.
func streamed(change func(*runtimeapi.ExecRequest)) fault { return edit(change) }

// instead executes another command.
func instead(when string, cmd ...string) fault {
	return streamed(func(r *runtimeapi.ExecRequest) {
		if slices.Contains(r.Cmd, when) {
			r.Cmd = append([]string{"/podtool"}, cmd...)
		}
	})
}

func streamMutants() []mutant {
	return []mutant{
		{"CRI-STREAM-001", "loses the exit code", instead("cat", "echo", "--stderr", "no such file")},
		{"CRI-STREAM-001", "loses stdin", instead("copy-stdin", "echo", "x")},
		{"CRI-STREAM-002", "loses the exit code", instead("cat", "echo", "--stderr", "no such file")},
		{"CRI-STREAM-003", "holds stdin open", instead("copy-stdin", "sleep", "forever")},
		{"CRI-STREAM-004", "has no terminals", streamed(func(r *runtimeapi.ExecRequest) { r.Tty = false })},
		{"CRI-STREAM-005", "knows a terminal's first size alone", streams(&streamer{})},
		{"CRI-STREAM-006", "leaves stderr out", streamed(func(r *runtimeapi.ExecRequest) { r.Stderr = r.Stderr && !r.Tty })},
		{"CRI-STREAM-007", "streams something", streamed(func(r *runtimeapi.ExecRequest) { r.Stdout = true })},
		{"CRI-STREAM-008", "attaches to nothing", streams(&streamer{})},
		{"CRI-STREAM-009", "keeps stdin for another", create(func(c *runtimeapi.ContainerConfig) { c.StdinOnce = false })},
		{"CRI-STREAM-010", "has stdin for one", create(func(c *runtimeapi.ContainerConfig) { c.StdinOnce = true })},
		{"CRI-STREAM-011", "serves a URL for ever", servesAgain()},
		{"CRI-STREAM-012", "stops who is attached to", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := c.req.(*runtimeapi.AttachRequest); ok {
				_, _ = c.rt.StopContainer(c.ctx, &runtimeapi.StopContainerRequest{ContainerId: r.ContainerId})
			}
			return resp, err
		}}},
		{"CRI-STREAM-014", "attaches without a terminal", seen("91 columns", streams(&streamer{}))},
		{"CRI-STREAM-013", "loses a byte", instead("fill", "fill", "8388607")},
	}
}

func forwardMutants() []mutant {
	return []mutant{
		{"CRI-FORWARD-001", "forwards nothing", refuse("PortForward", codes.Unimplemented, nil)},
		{"CRI-FORWARD-002", "closes both sides", streams(&streamer{})},
		{"CRI-FORWARD-003", "forwards once", fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
			if r, ok := req.(*runtimeapi.PortForwardRequest); ok && !c.once("forward"+r.PodSandboxId) {
				return nil, context.Canceled
			}
			return nil, nil
		}}},
		{"CRI-FORWARD-004", "forwards to the Pod's address", streams(&streamer{})},
		{"CRI-FORWARD-006", "forwards to the Pod's address", streams(&streamer{})},
		{"CRI-FORWARD-005", "forwards from nowhere", whitewash("PortForward", &runtimeapi.PortForwardResponse{Url: "http://127.0.0.1:1/"})},
	}
}

// streamer is a streaming server of the mutant's own, with faults: it knows a terminal's
// first size alone, attaches to nothing, and forwards to a Pod's address until the first
// side closes.
type streamer struct {
	c *exchange
}

func (s *streamer) Exec(ctx context.Context, _ string, _ []string, _ io.Reader, stdout, _ io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if !tty {
		return nil
	}
	size := <-resize
	_, _ = io.WriteString(stdout, strconv.Itoa(int(size.Width))+" columns, "+strconv.Itoa(int(size.Height))+" rows\n")
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
	}
	return nil
}

func (s *streamer) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return nil
}

func (s *streamer) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	st, err := s.c.rt.PodSandboxStatus(context.Background(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(st.GetStatus().GetNetwork().GetIp(), strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(stream, conn) }()
	_, err = io.Copy(conn, stream)
	return err
}

// streams answers calls for streams with URLs of the streamer's.
func streams(s *streamer) fault {
	return fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
		s.c = c
		server, base, err := streamServer(s)
		if err != nil {
			return nil, err
		}
		switch r := req.(type) {
		case *runtimeapi.ExecRequest:
			resp, err := server.GetExec(r)
			return &runtimeapi.ExecResponse{Url: onto(base, resp.GetUrl())}, err
		case *runtimeapi.AttachRequest:
			resp, err := server.GetAttach(r)
			return &runtimeapi.AttachResponse{Url: onto(base, resp.GetUrl())}, err
		case *runtimeapi.PortForwardRequest:
			resp, err := server.GetPortForward(r)
			return &runtimeapi.PortForwardResponse{Url: onto(base, resp.GetUrl())}, err
		}
		return nil, nil
	}}
}

func streamServer(s *streamer) (streaming.Server, string, error) {
	cfg := streaming.DefaultConfig
	server, err := streaming.NewServer(cfg, s)
	if err != nil {
		return nil, "", err
	}
	return server, httptest.NewServer(server).URL, nil // ends with the test process
}

// onto puts a URL onto another host.
func onto(base, raw string) string {
	b, err := url.Parse(base)
	if err != nil {
		return raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	u.Scheme, u.Host = b.Scheme, b.Host
	return u.String()
}

// servesAgain gives out a URL behind which each connection is a new stream.
func servesAgain() fault {
	return fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
		r, ok := req.(*runtimeapi.ExecRequest)
		if !ok {
			return nil, nil
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
			resp, err := c.rt.Exec(context.Background(), r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			to, err := url.Parse(resp.GetUrl())
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL, r.Out.Host = to, to.Host }}).ServeHTTP(w, in)
		}))
		return &runtimeapi.ExecResponse{Url: strings.TrimSuffix(srv.URL, "/") + "/exec/again"}, nil
	}}
}

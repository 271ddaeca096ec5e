package rpc_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// peer answers GetInfo with whatever its function says.
type peer struct {
	registerapi.UnimplementedRegistrationServer
	answer func() error
	saw    func(context.Context) // nil is nobody
}

func (p *peer) GetInfo(ctx context.Context, _ *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	if p.saw != nil {
		p.saw(ctx)
	}
	return &registerapi.PluginInfo{}, p.answer()
}

// serve serves p until the test ends and returns its endpoint.
func serve(t *testing.T, p *peer) string {
	t.Helper()
	endpoint := "unix://" + filepath.Join(t.TempDir(), "a#b%25?c")
	l, err := rpc.Listen(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(rpc.ServerOptions("test", nil)...)
	registerapi.RegisterRegistrationServer(s, p)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rpc.Serve(ctx, s, l, time.Second) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return endpoint
}

func TestErrorsCrossTheWire(t *testing.T) {
	tests := []struct {
		name   string
		answer func() error
		is     error
		code   codes.Code
		text   string
	}{
		{"kind", func() error { return fault.NotFound.Errorf("volume %q is not there", "v") }, fault.NotFound, codes.NotFound, `volume "v" is not there`},
		{"context", func() error { return context.DeadlineExceeded }, context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded"},
		{"status", func() error { return status.Error(codes.Aborted, "busy") }, fault.Aborted, codes.Aborted, "busy"},
		{"no kind", func() error { return errors.New("broken") }, fault.Internal, codes.Internal, "broken"},
		{"full disk", func() error { return &os.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC} }, fault.Exhausted, codes.ResourceExhausted, "write f: no space left on device"},
		{"read-only disk", func() error { return &os.PathError{Op: "open", Path: "f", Err: syscall.EROFS} }, fault.FailedPrecondition, codes.FailedPrecondition, "open f: read-only file system"},
		{"full disk of a kind", func() error { return fault.Unavailable.Wrap(syscall.ENOSPC) }, fault.Unavailable, codes.Unavailable, "no space left on device"},
		{"huge", func() error { return fault.NotFound.Errorf("%s: gone", strings.Repeat("é", 4<<20)) }, fault.NotFound, codes.NotFound, strings.Repeat("é", 1536) + " ... " + strings.Repeat("é", 509) + ": gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			endpoint := serve(t, &peer{answer: tt.answer})
			conn, err := rpc.Dial(endpoint, "test", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = registerapi.NewRegistrationClient(conn).GetInfo(t.Context(), &registerapi.InfoRequest{})
			if !errors.Is(err, tt.is) || status.Code(err) != tt.code || err.Error() != tt.text {
				t.Fatalf("got %v (%v), want %v %q", err, status.Code(err), tt.code, tt.text)
			}
		})
	}
}

// TestPanic: the client is told where, and that it is the handler's own fault.
func TestPanic(t *testing.T) {
	endpoint := serve(t, &peer{answer: func() error { panic("ouch") }})
	conn, err := rpc.Dial(endpoint, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := regexp.MustCompile(`^GetInfo panicked at rpc_test\.go:[0-9]+: see the log of the plugin$`)
	for range 2 { // the server goes on
		_, err = registerapi.NewRegistrationClient(conn).GetInfo(t.Context(), &registerapi.InfoRequest{})
		if !errors.Is(err, fault.Internal) || status.Code(err) != codes.Internal || !want.MatchString(err.Error()) {
			t.Errorf("got %v (%v)", err, status.Code(err))
		}
	}
}

// TestErrorThatIsANilPointer: it costs the one call, and not the server.
func TestErrorThatIsANilPointer(t *testing.T) {
	endpoint := serve(t, &peer{answer: func() error {
		var none *net.OpError
		return none
	}})
	conn, err := rpc.Dial(endpoint, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		_, err = registerapi.NewRegistrationClient(conn).GetInfo(t.Context(), &registerapi.InfoRequest{})
		if !errors.Is(err, fault.Internal) || !strings.Contains(err.Error(), "GetInfo returned an error that cannot be read, a *net.OpError") {
			t.Errorf("got %v", err)
		}
	}
}

func TestObserverKnowsThePod(t *testing.T) {
	endpoint := serve(t, &peer{answer: func() error { return nil }})
	var seen call.Call
	conn, err := rpc.Dial(endpoint, "test", &call.Observer{Done: func(_ context.Context, c call.Call) { seen = c }})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pod := call.Pod{Namespace: "default", Name: "p", UID: "1"}
	if _, err := registerapi.NewRegistrationClient(conn).GetInfo(call.WithPod(t.Context(), pod), &registerapi.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if seen.Pod != pod || seen.Method != "GetInfo" || seen.Family != "test" || seen.Took <= 0 || seen.Err != nil {
		t.Fatalf("observed %+v", seen)
	}
}

// TestObserverOfACallThatHangs: it is told while there is no answer, with what the caller
// allows.
func TestObserverOfACallThatHangs(t *testing.T) {
	told, answer := make(chan call.Call, 1), make(chan struct{})
	endpoint := serve(t, &peer{answer: func() error { <-answer; return nil }})
	observe := &call.Observer{Patience: 10 * time.Millisecond, Waits: func(_ context.Context, c call.Call) {
		told <- c
		close(answer)
	}}
	conn, err := rpc.Dial(endpoint, "test", observe.Named("mine"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := registerapi.NewRegistrationClient(conn).GetInfo(ctx, &registerapi.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if c := <-told; c.Plugin != "mine" || c.Method != "GetInfo" || c.Took < observe.Patience || c.Limit.Round(time.Second) != time.Minute {
		t.Errorf("observed %+v", c)
	}
}

func TestTraceOfTheCaller(t *testing.T) {
	want := call.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "vendor=1"}
	var got call.Trace
	endpoint := serve(t, &peer{answer: func() error { return nil }, saw: func(ctx context.Context) { got = call.TraceFrom(ctx) }})
	conn, err := rpc.Dial(endpoint, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", want.Parent, "tracestate", want.State)
	if _, err := registerapi.NewRegistrationClient(conn).GetInfo(ctx, &registerapi.InfoRequest{}); err != nil || got != want {
		t.Errorf("the handler is in the trace %v, want %v (%v)", got, want, err)
	}
}

func TestListen(t *testing.T) {
	endpoint := serve(t, &peer{})
	if _, err := rpc.Listen(endpoint); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a served socket: %v", err)
	}
	path, _ := rpc.SocketPath(endpoint)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}

	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.Listen(file); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a file in the way: %v", err)
	}
	if got, _ := os.ReadFile(file); string(got) != "mine" {
		t.Error("the file in the way was changed")
	}
}

func TestSocketPath(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:///run/x.sock": "/run/x.sock", "unix:/run/x.sock": "/run/x.sock", "/run/x.sock": "/run/x.sock",
	} {
		if got, err := rpc.SocketPath(endpoint); err != nil || got != want {
			t.Errorf("%q: %q, %v", endpoint, got, err)
		}
	}
	for _, endpoint := range []string{"", "run/x.sock", "tcp://127.0.0.1:1", "unix://run/x", "/" + strings.Repeat("x", 107)} {
		if _, err := rpc.SocketPath(endpoint); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

package relay_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/relay"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// server answers with what it was asked for.
type server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (server) Version(_ context.Context, r *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: r.Version}, nil
}

func (server) StopContainer(_ context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return nil, fault.NotFound.Errorf("no container %q", r.ContainerId)
}

func (server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	for _, id := range []string{"a", "b"} {
		if err := s.Send(&runtimeapi.ContainerEventResponse{ContainerId: id}); err != nil {
			return err
		}
	}
	return nil
}

// start serves a server behind a relay and returns a client, and the relay's end.
func start(t *testing.T, h relay.Hooks) (runtimeapi.RuntimeServiceClient, func() error) {
	t.Helper()
	dir := t.TempDir()
	inner, outer := "unix://"+filepath.Join(dir, "i"), "unix://"+filepath.Join(dir, "o")
	l, err := rpc.Listen(inner)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(rpc.ServerOptions("cri", nil)...)
	runtimeapi.RegisterRuntimeServiceServer(g, server{})
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	r, err := relay.New(inner, h)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := r.Serve(outer)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(outer, "cri", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), stop(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	return runtimeapi.NewRuntimeServiceClient(conn), stop
}

func TestPassesOn(t *testing.T) {
	c, stop := start(t, relay.Hooks{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if v, err := c.Version(ctx, &runtimeapi.VersionRequest{Version: "x"}); err != nil || v.Version != "x" {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "x"}); !errors.Is(err, fault.NotFound) {
		t.Errorf("an error came as %v", err)
	}
	if _, err := c.Status(ctx, &runtimeapi.StatusRequest{}); !errors.Is(err, fault.Unimplemented) {
		t.Errorf("a method that the server does not have: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := c.Version(ctx, &runtimeapi.VersionRequest{}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("behind the end: %v", err)
	}
}

func TestHooks(t *testing.T) {
	c, _ := start(t, relay.Hooks{
		Unary: func(ctx context.Context, c *relay.Call, next relay.Next) (proto.Message, error) {
			r, ok := c.Request.(*runtimeapi.VersionRequest)
			if !ok {
				return nil, fault.Exhausted.Errorf("no %s today", c.Method)
			}
			r.Version += "!"
			return next(ctx)
		},
		Stream: func(ctx context.Context, _ *relay.Call, send relay.Send, next relay.Stream) error {
			return next(ctx, func(m proto.Message) error {
				if e, ok := m.(*runtimeapi.ContainerEventResponse); ok && e.ContainerId == "a" {
					return errors.Join(send(m), send(m))
				}
				return nil
			})
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if v, err := c.Version(ctx, &runtimeapi.VersionRequest{Version: "x"}); err != nil || v.Version != "x!" {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := c.Status(ctx, &runtimeapi.StatusRequest{}); !errors.Is(err, fault.Exhausted) {
		t.Errorf("an answer of the hook's own: %v", err)
	}
	s, err := c.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got string
	for e, err := s.Recv(); err == nil; e, err = s.Recv() {
		got += e.ContainerId
	}
	if got != "aa" {
		t.Errorf("the stream has %q", got)
	}
}

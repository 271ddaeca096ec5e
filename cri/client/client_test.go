package client_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/client"
)

// events serves GetContainerEvents until the stream ends, and tells whether it
// had a deadline.
type events struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	deadline chan bool
}

func (e *events) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	_, has := s.Context().Deadline()
	e.deadline <- has
	if err := s.Send(&runtimeapi.ContainerEventResponse{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// A server that has the subscriber's deadline ends the stream by its own clock,
// a moment before the subscriber's context ends: for the subscriber an error.
func TestEventsEndWithTheContextAlone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	e := &events{deadline: make(chan bool, 1)}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, e)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	c, err := client.Dial(socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	got := 0
	if err := c.Events(ctx, nil, func(*runtimeapi.ContainerEventResponse) { got++ }); err != nil || ctx.Err() == nil {
		t.Errorf("Events: %v, while its context says %v", err, ctx.Err())
	}
	if got != 1 {
		t.Errorf("%d events", got)
	}
	select {
	case has := <-e.deadline:
		if has {
			t.Error("the server was told of the deadline")
		}
	default:
		t.Error("the server was not asked in time")
	}
}

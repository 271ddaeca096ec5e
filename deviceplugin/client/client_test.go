package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/deviceplugin/client"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// plugin answers as the test says.
type plugin struct {
	api.UnimplementedDevicePluginServer
	devices   []*api.Device
	responses int
	end       chan struct{}
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{PreStartRequired: true}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, s grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	if err := s.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	select {
	case <-p.end:
	case <-s.Context().Done():
	}
	return nil
}

func (p *plugin) Allocate(context.Context, *api.AllocateRequest) (*api.AllocateResponse, error) {
	return &api.AllocateResponse{ContainerResponses: make([]*api.ContainerAllocateResponse, p.responses)}, nil
}

func serve(t *testing.T, p *plugin) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nk-dpc-")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "p.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, p)
	go s.Serve(l)
	t.Cleanup(func() { s.Stop(); os.RemoveAll(dir) })
	return socket
}

func TestLists(t *testing.T) {
	node := func(id int64) *api.TopologyInfo { return &api.TopologyInfo{Nodes: []*api.NUMANode{{ID: id}}} }
	p := &plugin{end: make(chan struct{}), devices: []*api.Device{
		{ID: "a", Health: "Unhealthy"},
		{ID: "b", Health: "healthy", Topology: node(-1)},
		{ID: "a", Health: "Healthy", Topology: node(1)},
		{ID: "", Health: "Healthy"},
	}}
	lists := make(chan []client.Device, 10)
	var methods []string
	e, err := client.Connect(t.Context(), "example.com/x", serve(t, p), &client.Options{
		Devices: func(_ *client.Endpoint, d []client.Device) { lists <- d },
		Observe: &call.Observer{Done: func(_ context.Context, c call.Call) { methods = append(methods, c.Method) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !e.NeedsPreStart() || e.HasPreference() || e.Resource() != "example.com/x" || !cmp.Equal(methods, []string{"GetDevicePluginOptions"}) {
		t.Errorf("endpoint %+v after %q", e, methods)
	}
	e.Watch()
	want := []client.Device{ // as the kubelet reads it
		{ID: "a", Healthy: true, NUMA: []int{1}, Odd: "it is listed more than once, of which the last counts"},
		{ID: "b", Odd: `its health is "healthy", and "Healthy" alone counts as healthy`},
		{ID: "", Healthy: true, Odd: "its id is empty"},
	}
	if diff := cmp.Diff(want, <-lists); diff != "" {
		t.Error(diff)
	}
	close(p.end)
	select {
	case d := <-lists:
		if d != nil {
			t.Errorf("at the stream's end: %v, want nil", d)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the stream's end is not told")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsTheStream(t *testing.T) {
	lists := make(chan []client.Device, 10)
	e, err := client.Connect(t.Context(), "example.com/x", serve(t, &plugin{}), &client.Options{
		Devices: func(_ *client.Endpoint, d []client.Device) { lists <- d },
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Watch()
	if d := <-lists; d == nil || len(d) > 0 {
		t.Errorf("an empty list came as %v, want one that is not nil", d)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if d := <-lists; d != nil {
		t.Errorf("after Close: %v, want nil", d)
	}
}

func TestAllocateWantsOneResponse(t *testing.T) {
	p := &plugin{}
	e, err := client.Connect(t.Context(), "example.com/x", serve(t, p), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Allocate(t.Context(), []string{"a"}); !errors.Is(err, fault.Internal) {
		t.Errorf("without a response: %v, want fault.Internal", err)
	}
	if err := e.PreStart(t.Context(), []string{"a"}); !errors.Is(err, fault.Unimplemented) {
		t.Errorf("PreStart of a plugin without it: %v, want fault.Unimplemented", err)
	}
}

func TestConnectToNobody(t *testing.T) {
	if _, err := client.Connect(t.Context(), "example.com/x", "/nonexistent/p.sock", nil); !errors.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want fault.Unavailable", err)
	}
}

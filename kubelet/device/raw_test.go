package device_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/kubelet/device"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// raw is a plugin without the SDK, which would refuse its list and choose in its place.
type raw struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
	prefer  func() ([]string, error) // nil is no preference

	mu    sync.Mutex
	asked []string // the devices of Allocate
}

// start serves the plugin and registers it.
func (r *raw) start(t *testing.T, m *device.Manager, root string) {
	t.Helper()
	socket := filepath.Join(root, "raw.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, r)
	go s.Serve(l) // it ends with Stop
	t.Cleanup(s.Stop)
	if err := m.Handler().Register(t.Context(), registration.Plugin{Name: gpu, Socket: socket, Endpoint: socket, Versions: []string{api.Version}}); err != nil {
		t.Fatal(err)
	}
}

func (r *raw) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{GetPreferredAllocationAvailable: r.prefer != nil}, nil
}

func (r *raw) GetPreferredAllocation(context.Context, *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	ids, err := r.prefer()
	return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{{DeviceIDs: ids}}}, err
}

func (r *raw) Allocate(_ context.Context, in *api.AllocateRequest) (*api.AllocateResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, in.GetContainerRequests()[0].GetDevicesIds()...)
	return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{{}}}, nil
}

func (r *raw) allocated() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *raw) ListAndWatch(_ *api.Empty, s api.DevicePlugin_ListAndWatchServer) error {
	if err := s.Send(&api.ListAndWatchResponse{Devices: r.devices}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// TestFailedPreference: a plugin that cannot choose keeps the Pod waiting, as one that
// cannot allocate does, and the Pod holds nothing. A kubelet fails the Pod's admission.
func TestFailedPreference(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	var works atomic.Bool
	r := &raw{devices: []*api.Device{{ID: "0", Health: api.Healthy}, {ID: "1", Health: api.Healthy}}, prefer: func() ([]string, error) {
		if works.Load() {
			return []string{"1"}, nil
		}
		return nil, errors.New("the topology cannot be read")
	}}
	r.start(t, m, root)
	await(t, m, gpu, device.Resource{Capacity: 2, Allocatable: 2})
	_, err := m.Allocate(t.Context(), newPod("a", 1))
	if pod.Waiting(err) == nil || !strings.Contains(err.Error(), "to choose among its devices") || !strings.Contains(err.Error(), "cannot be read") || len(r.allocated()) != 0 {
		t.Fatalf("got %v and allocated %q, want a WaitError with the plugin's words", err, r.allocated())
	}
	await(t, m, gpu, device.Resource{Capacity: 2, Allocatable: 2})
	works.Store(true)
	if allocate(t, m, newPod("a", 1)); !slices.Equal(r.allocated(), []string{"1"}) {
		t.Errorf("allocated %q", r.allocated())
	}
}

// TestOddDevices: a Pod that waits for devices says what is wrong with those there are.
func TestOddDevices(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	r := &raw{devices: []*api.Device{
		{ID: "a", Health: "healthy"}, {ID: "b", Health: api.Unhealthy}, {ID: "b", Health: api.Unhealthy}, {Health: api.Unhealthy}, {ID: "c"}, {ID: "d"},
	}}
	r.start(t, m, root)
	await(t, m, gpu, device.Resource{Capacity: 5})
	_, err := m.Allocate(t.Context(), newPod("a", 1))
	want := `there are 5, 0 healthy, 0 in use` +
		`; of device "a" the plugin says something odd: its health is "healthy", and "Healthy" alone counts as healthy` +
		`; of device "b" the plugin says something odd: it is listed more than once, of which the last counts` +
		`; of device "" the plugin says something odd: its id is empty; and so on of 2 more`
	if pod.Waiting(err) == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

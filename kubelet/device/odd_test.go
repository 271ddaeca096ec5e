package device_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/kubelet/device"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// raw is a plugin without the SDK, which would refuse its list.
type raw struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

func (r *raw) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (r *raw) ListAndWatch(_ *api.Empty, s api.DevicePlugin_ListAndWatchServer) error {
	if err := s.Send(&api.ListAndWatchResponse{Devices: r.devices}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// TestOddDevices: a Pod that waits for devices says what is wrong with those there are.
func TestOddDevices(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	socket := filepath.Join(root, "raw.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, &raw{devices: []*api.Device{
		{ID: "a", Health: "healthy"}, {ID: "b", Health: api.Unhealthy}, {ID: "b", Health: api.Unhealthy}, {Health: api.Unhealthy}, {ID: "c"}, {ID: "d"},
	}})
	go s.Serve(l) //nolint:errcheck // it ends with Stop
	t.Cleanup(s.Stop)
	if err := m.Handler().Register(t.Context(), registration.Plugin{Name: gpu, Socket: socket, Endpoint: socket, Versions: []string{api.Version}}); err != nil {
		t.Fatal(err)
	}
	await(t, m, gpu, device.Resource{Capacity: 5})
	_, err = m.Allocate(t.Context(), newPod("a", 1))
	want := `there are 5, 0 healthy, 0 in use` +
		`; of device "a" the plugin says something odd: its health is "healthy", and "Healthy" alone counts as healthy` +
		`; of device "b" the plugin says something odd: it is listed more than once, of which the last counts` +
		`; of device "" the plugin says something odd: its id is empty; and so on of 2 more`
	if pod.Waiting(err) == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

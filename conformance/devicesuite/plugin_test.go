package devicesuite_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// raw is a device plugin written without the SDK, as people write them, with the
// oddities and faults that its trait names.
type raw struct {
	api.UnimplementedDevicePluginServer
	trait string
	dir   string       // device-plugins
	round atomic.Int32 // how often it has registered
	lists atomic.Int32 // how often it was asked for its devices
}

func (p *raw) is(traits ...string) bool { return slices.Contains(traits, p.trait) }

// runRaw is the main function of the test binary when it is started as a plugin.
func runRaw(trait string, args []string) error {
	flags := flag.NewFlagSet("raw", flag.ExitOnError)
	root := flags.String("kubelet-dir", "/var/lib/kubelet", "")
	_ = flags.Parse(args)
	p := &raw{trait: trait, dir: filepath.Join(*root, "device-plugins")}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	for {
		again, err := p.live(term)
		if err != nil || !again {
			return err
		}
	}
}

// live serves and registers once, and watches for the next restart.
func (p *raw) live(term <-chan os.Signal) (again bool, err error) {
	socket := p.socket()
	if p.is("never registers") {
		<-term
		return false, nil
	}
	if p.is("registers first") {
		if err := p.register(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if !p.is("keeps a stale socket") {
		os.Remove(socket)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return false, err
	}
	l.SetUnlinkOnClose(false)
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, p)
	go s.Serve(l)
	defer func() {
		if p.is("closes late") { // as one does that lets calls end before
			time.AfterFunc(3*time.Second, s.Stop)
			return
		}
		s.Stop()
	}()
	if p.is("leaves a process") {
		// Until the suite removes the directory, however long the rule takes.
		child := exec.Command("sh", "-c", `while [ -d "$0" ]; do sleep 0.1; done`, p.dir)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		child.Start()
	}
	for p.round.Load() == 0 || !p.is("forgets restarts") {
		if err := p.register(socket); err == nil {
			break
		}
		// The kubelet may have died before its answer came, and the next one
		// has wiped the socket.
		if _, err := os.Stat(socket); err != nil && !p.is("forgets restarts") {
			return p.lost()
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.round.Add(1)
	return p.watch(socket, term)
}

// lost is what comes after the loss of the socket.
func (p *raw) lost() (again bool, err error) {
	if p.is("exits at restarts") {
		return false, fmt.Errorf("the socket is gone")
	}
	return true, nil
}

func (p *raw) socket() string {
	if p.is("odd") { // a new name each time, as many do
		return filepath.Join(p.dir, fmt.Sprintf("dp.%d.%d", os.Getpid(), p.round.Load()))
	}
	return filepath.Join(p.dir, "raw.sock")
}

// watch polls for the loss of the socket, as many do.
func (p *raw) watch(socket string, term <-chan os.Signal) (again bool, err error) {
	for {
		select {
		case <-term:
			switch {
			case p.is("ignores SIGTERM"):
				continue
			case !p.is("leaves its socket", "odd"):
				os.Remove(socket)
			}
			return false, nil
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := os.Stat(socket); err == nil {
			continue
		}
		switch {
		case p.is("forgets restarts"):
			continue
		case p.is("leaks descriptors"):
			for range 3 {
				syscall.Open("/dev/null", syscall.O_RDONLY, 0)
			}
		}
		return p.lost()
	}
}

func (p *raw) register(socket string) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	in := &api.RegisterRequest{Version: api.Version, Endpoint: filepath.Base(socket), ResourceName: "example.com/raw"}
	switch p.trait {
	case "wrong version":
		in.Version = "v1alpha"
	case "endpoint is a path":
		in.Endpoint = socket
	case "another endpoint":
		in.Endpoint = "other.sock"
	case "resource without domain":
		in.ResourceName = "raw"
	}
	// A kubelet that goes down may take the connection and never answer; the
	// patience of these tests is no longer than what plugins usually wait.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err = api.NewRegistrationClient(conn).Register(ctx, in)
	return err
}

func (p *raw) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{
		PreStartRequired:                p.is("odd", "has no PreStart", "starts for ever"),
		GetPreferredAllocationAvailable: p.is("odd", "has no preference", "prefers nothing", "prefers what is not there"),
	}, nil
}

func (p *raw) devices() []*api.Device {
	out := []*api.Device{{ID: "a", Health: api.Healthy}, {ID: "b", Health: api.Unhealthy}}
	switch p.trait {
	case "id twice":
		out[1].ID = "a"
	case "long id":
		out[0].ID = strings.Repeat("x", 64)
	case "no id":
		out[0].ID = ""
	case "health in lower case":
		out[0].Health = "healthy"
	case "nothing healthy":
		out[0].Health = api.Unhealthy
	case "new ids":
		out[0].ID = fmt.Sprintf("%d-%d", os.Getpid(), p.round.Load())
	}
	return out
}

func (p *raw) ListAndWatch(_ *api.Empty, s grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	asked := p.lists.Add(1)
	if p.is("odd") { // nothing at first, then the same list over and over
		s.Send(&api.ListAndWatchResponse{})
		time.Sleep(200 * time.Millisecond)
		for s.Send(&api.ListAndWatchResponse{Devices: p.devices()}) == nil {
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	}
	if p.is("finds devices slowly") && asked == 1 {
		s.Send(&api.ListAndWatchResponse{})
	}
	if !p.is("lists nothing") {
		s.Send(&api.ListAndWatchResponse{Devices: p.devices()})
	}
	if p.is("ends its stream") && asked > 1 || p.is("lists once") {
		return nil
	}
	<-s.Context().Done()
	return nil
}

func (p *raw) Allocate(_ context.Context, in *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for _, c := range in.GetContainerRequests() {
		if !slices.Equal(c.GetDevicesIds(), []string{"a"}) && !p.is("allocates anything") {
			return nil, status.Error(codes.Unknown, "no such device")
		}
		if !p.is("answers no container") {
			out.ContainerResponses = append(out.ContainerResponses, p.response())
		}
	}
	switch p.trait {
	case "dies of an allocation":
		fmt.Fprintln(os.Stderr, "panic: out of devices")
		os.Exit(2)
	case "allocates for ever":
		time.Sleep(time.Hour)
	}
	return out, nil
}

func (p *raw) response() *api.ContainerAllocateResponse {
	node := &api.DeviceSpec{HostPath: "/dev/null", ContainerPath: "/dev/raw", Permissions: "rw"}
	cdi := &api.CDIDevice{Name: "example.com/raw=a"}
	out := &api.ContainerAllocateResponse{}
	switch p.trait {
	case "odd":
		node.Permissions = "m"
		out.Devices, out.CdiDevices = []*api.DeviceSpec{node}, []*api.CDIDevice{cdi}
		out.Mounts = []*api.Mount{{HostPath: "/usr/lib/made/later", ContainerPath: "/raw"}}
	case "relative device":
		node.HostPath = "null"
		out.Devices = []*api.DeviceSpec{node}
	case "wrong permissions":
		node.Permissions = "rwx"
		out.Devices = []*api.DeviceSpec{node}
	case "relative mount":
		out.Mounts = []*api.Mount{{HostPath: "/usr/lib/raw", ContainerPath: "lib"}}
	case "short CDI name":
		cdi.Name = "a"
		out.CdiDevices = []*api.CDIDevice{cdi}
	}
	return out
}

func (p *raw) GetPreferredAllocation(_ context.Context, in *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	out := &api.PreferredAllocationResponse{}
	for _, c := range in.GetContainerRequests() {
		ids := c.GetAvailableDeviceIDs()[:c.GetAllocationSize()]
		switch p.trait {
		case "has no preference":
			return nil, status.Error(codes.Unimplemented, "later")
		case "prefers nothing":
			continue
		case "prefers what is not there":
			ids = []string{"z"}
		}
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

func (p *raw) PreStartContainer(_ context.Context, _ *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	switch p.trait {
	case "has no PreStart":
		return nil, status.Error(codes.Unimplemented, "later")
	case "starts for ever":
		time.Sleep(time.Hour)
	}
	return &api.PreStartContainerResponse{}, nil
}

package deviceplugin_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// kubelet is one that the test scripts.
type kubelet struct {
	api.UnimplementedRegistrationServer
	dir    string
	server *grpc.Server

	mu     sync.Mutex
	refuse error
	plugin api.DevicePluginClient
	lists  chan []string      // ids of each list, with "!" when unhealthy
	calls  chan time.Time     // of Register, but those of a plugin whose socket is wiped already
	cancel context.CancelFunc // ends the last stream
}

func startKubelet(t *testing.T, root string) *kubelet {
	t.Helper()
	k := &kubelet{dir: filepath.Join(root, "device-plugins"), server: grpc.NewServer(), lists: make(chan []string, 100), calls: make(chan time.Time, 100)}
	if err := os.MkdirAll(k.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	old, _ := filepath.Glob(filepath.Join(k.dir, "*.sock"))
	for _, s := range old {
		os.Remove(s)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(k.dir, "kubelet.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	api.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(l)
	t.Cleanup(k.die)
	return k
}

// die breaks every connection and leaves the socket, as SIGKILL does.
func (k *kubelet) die() {
	k.server.Stop()
	k.hang()
}

// hang ends the stream.
func (k *kubelet) hang() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel != nil {
		k.cancel()
	}
}

func (k *kubelet) setRefuse(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = err
}

func (k *kubelet) Register(ctx context.Context, in *api.RegisterRequest) (*api.Empty, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		k.calls <- time.Now()
		return nil, k.refuse
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, in.GetEndpoint()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	k.plugin = api.NewDevicePluginClient(conn)
	options, err := k.plugin.GetDevicePluginOptions(ctx, &api.Empty{})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	k.calls <- time.Now()
	if options.String() != in.GetOptions().String() {
		return nil, fmt.Errorf("options %v, registered with %v", options, in.GetOptions())
	}
	streaming, cancel := context.WithCancel(context.Background())
	k.cancel = func() { cancel(); conn.Close() }
	go k.receive(streaming)
	return &api.Empty{}, nil
}

func (k *kubelet) receive(ctx context.Context) {
	s, err := k.plugin.ListAndWatch(ctx, &api.Empty{})
	for err == nil {
		var list *api.ListAndWatchResponse
		if list, err = s.Recv(); err != nil {
			return
		}
		ids := []string{}
		for _, d := range list.GetDevices() {
			id := d.GetID()
			if d.GetHealth() != api.Healthy {
				id += "!"
			}
			ids = append(ids, id)
		}
		k.lists <- ids
	}
}

func (k *kubelet) expect(t *testing.T, want ...string) {
	t.Helper()
	select {
	case got := <-k.lists:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no list within 5 s, want %q", want)
	}
}

// registrations counts calls of Register until nothing comes for a while.
func (k *kubelet) registrations() int {
	n := 0
	for {
		select {
		case <-k.calls:
			n++
		case <-time.After(400 * time.Millisecond):
			return n
		}
	}
}

func newRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nk-dp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// scripted is a plugin whose lists come from the channel.
func scripted(lists <-chan []deviceplugin.Device) *deviceplugin.Plugin {
	return &deviceplugin.Plugin{
		Resource: "example.com/thing",
		Watch: func(ctx context.Context, update func([]deviceplugin.Device) error) error {
			for {
				select {
				case l := <-lists:
					_ = update(l) // the SDK logs it
				case <-ctx.Done():
					return nil
				}
			}
		},
	}
}

func static(ids ...string) *deviceplugin.Plugin {
	var devices []deviceplugin.Device
	for _, id := range ids {
		devices = append(devices, deviceplugin.Device{ID: id})
	}
	return &deviceplugin.Plugin{Resource: "example.com/thing", Watch: deviceplugin.Static(devices...)}
}

func serve(t *testing.T, root string, p *deviceplugin.Plugin) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	go func() { done <- deviceplugin.Serve(ctx, p, &deviceplugin.Options{KubeletDir: root, Logger: log}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve ended with %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestKubeletComesLater(t *testing.T) {
	root := newRoot(t)
	serve(t, root, static("a"))
	time.Sleep(50 * time.Millisecond)
	k := startKubelet(t, root)
	k.expect(t, "a")
	if n := k.registrations(); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
}

// TestWaitingIsSaid: who names the wrong directory sees where the kubelet is looked for.
func TestWaitingIsSaid(t *testing.T) {
	root := t.TempDir()
	said := make(chan string, 100)
	log := slog.New(slog.NewTextHandler(lineWriter(said), nil))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- deviceplugin.Serve(ctx, static("a"), &deviceplugin.Options{KubeletDir: root, Logger: log})
	}()
	await := func(want string) {
		t.Helper()
		for {
			select {
			case line := <-said:
				if strings.Contains(line, want) {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("nothing says %q", want)
			}
		}
	}
	await("waiting for the kubelet to make its directory")
	if err := os.Mkdir(filepath.Join(root, "device-plugins"), 0o750); err != nil {
		t.Fatal(err)
	}
	await(`msg="waiting for the kubelet" resource=example.com/thing socket=` + filepath.Join(root, "device-plugins", "kubelet.sock"))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// lineWriter sends what is written to it.
type lineWriter chan<- string

func (w lineWriter) Write(b []byte) (int, error) {
	w <- string(b)
	return len(b), nil
}

// TestKubeletRestarts holds to exactly one registration for each restart,
// whatever the plugin notices first.
func TestKubeletRestarts(t *testing.T) {
	for name, down := range map[string]time.Duration{"at once": 0, "slowly": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t)
			k := startKubelet(t, root)
			serve(t, root, static("a"))
			k.expect(t, "a")
			for range 3 {
				k.die()
				time.Sleep(down)
				began := time.Now()
				k = startKubelet(t, root)
				k.expect(t, "a")
				t.Logf("from the kubelet's start to the list: %s", time.Since(began))
				if n := k.registrations(); n != 1 {
					t.Errorf("%d registrations, want 1", n)
				}
			}
		})
	}
}

func TestRapidRestarts(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	serve(t, root, static("a"))
	for range 10 {
		time.Sleep(20 * time.Millisecond)
		k.die()
		k = startKubelet(t, root)
	}
	k.expect(t, "a")
	if n := k.registrations(); n != 1 {
		t.Errorf("%d registrations with the last kubelet, want 1", n)
	}
}

func TestOwnSocketRemoved(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	serve(t, root, static("a"))
	k.expect(t, "a")
	if err := os.Remove(filepath.Join(k.dir, "example.com_thing.sock")); err != nil {
		t.Fatal(err)
	}
	k.expect(t, "a")
}

func TestDirectoryRemoved(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	serve(t, root, static("a"))
	k.expect(t, "a")
	k.die()
	err := os.RemoveAll(k.dir)
	for range 100 { // the plugin may put its socket back meanwhile
		if !errors.Is(err, syscall.ENOTEMPTY) {
			break
		}
		err = os.RemoveAll(k.dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	startKubelet(t, root).expect(t, "a")
}

// TestKubeletHangsUp: no file tells it, and without a new registration the
// resource would stay at zero.
func TestKubeletHangsUp(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	serve(t, root, static("a"))
	for range 2 {
		k.expect(t, "a")
		k.hang()
	}
	k.expect(t, "a")
}

func TestRefusalIsRetried(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	k.setRefuse(status.Error(codes.Unavailable, "not now"))
	serve(t, root, static("a"))
	for range 3 {
		<-k.calls
	}
	k.setRefuse(nil)
	k.expect(t, "a")
}

func TestUpdatesReachTheStream(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	lists := make(chan []deviceplugin.Device)
	serve(t, root, scripted(lists))
	if n := k.registrations(); n != 0 {
		t.Errorf("%d registrations before the first list, want 0", n)
	}
	lists <- nil
	k.expect(t, []string{}...)
	lists <- []deviceplugin.Device{{ID: "a", NUMA: []int{1}}}
	k.expect(t, "a")
	lists <- []deviceplugin.Device{{ID: "a", NUMA: []int{1}}} // nothing new: no message
	lists <- []deviceplugin.Device{{ID: "b"}, {ID: "b"}}      // refused: the list before stays
	lists <- []deviceplugin.Device{{ID: "a", Unhealthy: true}}
	k.expect(t, "a!")
}

func TestSocketGoneAtTheEnd(t *testing.T) {
	root := newRoot(t)
	k := startKubelet(t, root)
	stop := serve(t, root, static("a"))
	k.expect(t, "a")
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	left, err := filepath.Glob(filepath.Join(k.dir, "*"))
	if err != nil || !slices.Equal(left, []string{filepath.Join(k.dir, "kubelet.sock")}) {
		t.Errorf("left %q, %v, want kubelet.sock alone", left, err)
	}
}

func TestPluginsThatEndServe(t *testing.T) {
	fails := errors.New("no driver")
	for name, c := range map[string]struct {
		plugin deviceplugin.Plugin
		want   error
	}{
		"no domain": {deviceplugin.Plugin{Resource: "gpu", Watch: deviceplugin.Static()}, fault.Invalid},
		"no watch":  {deviceplugin.Plugin{Resource: "example.com/gpu"}, fault.Invalid},
		"no list":   {deviceplugin.Plugin{Resource: "example.com/gpu", Watch: func(context.Context, func([]deviceplugin.Device) error) error { return nil }}, fault.Invalid},
		"error":     {deviceplugin.Plugin{Resource: "example.com/gpu", Watch: func(context.Context, func([]deviceplugin.Device) error) error { return fails }}, fails},
		"bad list":  {deviceplugin.Plugin{Resource: "example.com/gpu", Watch: deviceplugin.Static(deviceplugin.Device{ID: "a b"})}, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if err := deviceplugin.Serve(t.Context(), &c.plugin, &deviceplugin.Options{KubeletDir: newRoot(t)}); !errors.Is(err, c.want) {
				t.Errorf("Serve ended with %v, want %v", err, c.want)
			}
		})
	}
}

func TestLongDirectory(t *testing.T) {
	root := filepath.Join(newRoot(t), strings.Repeat("d", 50))
	k := startKubelet(t, root)
	p := static("a")
	p.Resource = "example.com/" + strings.Repeat("r", 50)
	serve(t, root, p)
	k.expect(t, "a")
}

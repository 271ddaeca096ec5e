package devicesuite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	kubeletSocket = "kubelet.sock"
	// dialTimeout is the kubelet's own, for the plugin's socket and its options
	// together, during Register.
	dialTimeout = 10 * time.Second
)

// kubelet plays the kubelet: it serves registration and calls the plugin back.
type kubelet struct {
	pluginapi.UnimplementedRegistrationServer
	dir      string        // device-plugins
	patience time.Duration // at most dialTimeout
	server   *grpc.Server
	requests chan *pluginapi.RegisterRequest // the first one, as it came
	arrived  chan *registered
	calling  atomic.Pointer[pluginapi.RegisterRequest] // whose plugin is being called back

	mu   sync.Mutex
	open []*grpc.ClientConn // to plugins
}

// registered is one call of Register and its outcome.
type registered struct {
	request *pluginapi.RegisterRequest
	plugin  pluginapi.DevicePluginClient
	options *pluginapi.DevicePluginOptions
	refused error // why a kubelet would refuse it
}

// startKubelet starts like a kubelet: it removes the sockets in the directory and
// listens.
func startKubelet(dir string, patience time.Duration) (*kubelet, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("starting the suite's kubelet: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("starting the suite's kubelet: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("starting the suite's kubelet: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, kubeletSocket), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("starting the suite's kubelet: %w", err)
	}
	l.SetUnlinkOnClose(false) // a kubelet that dies leaves its socket
	k := &kubelet{
		dir: dir, patience: min(patience, dialTimeout), server: grpc.NewServer(),
		requests: make(chan *pluginapi.RegisterRequest, 1), arrived: make(chan *registered, 1000),
	}
	pluginapi.RegisterRegistrationServer(k.server, k)
	go func() { _ = k.server.Serve(l) }() // it ends with die
	return k, nil
}

// die ends the kubelet as SIGKILL would: every connection breaks and the socket
// stays.
func (k *kubelet) die() {
	k.server.Stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, conn := range k.open {
		_ = conn.Close() // a dead kubelet does not look
	}
	k.open = nil
}

// Register does what the kubelet does: it connects to the plugin and asks for its
// options before it answers.
func (k *kubelet) Register(ctx context.Context, in *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	select {
	case k.requests <- in:
	default:
	}
	r := &registered{request: in}
	k.calling.Store(in)
	defer k.calling.CompareAndSwap(in, nil)
	r.refused = k.callBack(ctx, r)
	k.arrived <- r
	if r.refused != nil {
		return nil, r.refused
	}
	return &pluginapi.Empty{}, nil
}

func (k *kubelet) callBack(ctx context.Context, r *registered) error {
	// Without options for the message size: the kubelet sets none either.
	quick := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}, MinConnectTimeout: time.Second}
	conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, r.request.GetEndpoint()),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(quick))
	if err != nil {
		return fmt.Errorf("connecting to endpoint %q: %w", r.request.GetEndpoint(), err)
	}
	k.mu.Lock()
	k.open = append(k.open, conn)
	k.mu.Unlock()
	r.plugin = pluginapi.NewDevicePluginClient(conn)
	ctx, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	r.options, err = r.plugin.GetDevicePluginOptions(ctx, &pluginapi.Empty{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("GetDevicePluginOptions at endpoint %q, which the kubelet calls during Register: %w", r.request.GetEndpoint(), err)
	}
	return nil
}

// stream is an open ListAndWatch.
type stream struct {
	lists chan []*pluginapi.Device // closed at the stream's end
	err   error                    // why it ended; may be read once lists is closed
}

// watch opens ListAndWatch, which ends with ctx. Like the kubelet it sets no deadline: that
// would reach the plugin, which may end the stream before the time is over here.
func (r *registered) watch(ctx context.Context) (*stream, error) {
	open, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, end)
	s, err := r.plugin.ListAndWatch(open, &pluginapi.Empty{})
	if err != nil {
		end()
		return nil, fmt.Errorf("ListAndWatch: %w", err)
	}
	out := &stream{lists: make(chan []*pluginapi.Device, 1000)}
	go func() {
		defer close(out.lists)
		defer end()
		for {
			list, err := s.Recv()
			if err != nil {
				out.err = err
				return
			}
			select {
			case out.lists <- list.GetDevices():
			case <-ctx.Done():
				out.err = ctx.Err()
				return
			}
		}
	}()
	return out, nil
}

// next returns the next list.
func (s *stream) next(ctx context.Context, patience time.Duration) ([]*pluginapi.Device, error) {
	began := time.Now()
	select {
	case list, ok := <-s.lists:
		if !ok && !expired(ctx, s.err) {
			return nil, fmt.Errorf("ListAndWatch ended: %w; it should stay open", s.err)
		}
		if ok {
			return list, nil
		}
	case <-time.After(patience):
		return nil, fmt.Errorf("ListAndWatch sent no list within %s", patience)
	case <-ctx.Done(): // which ends the stream, too
	}
	return nil, errors.Join(fmt.Errorf("ListAndWatch sent no list within %s", waited(began)), gaveUp(ctx))
}

// Package device is the kubelet's device manager: it accepts the registrations of
// device plugins, tracks their devices, and allocates them to the containers that
// request them in resources.limits.
//
// Allocations are on disk before a Pod gets them, and are read at start: a container
// keeps its devices across any restart of the node or the plugin, and is answered from
// the record without asking the plugin again. A Pod whose plugin is missing, or whose
// devices are in use, waits. It is never rejected for that, unlike in the upstream
// kubelet, where a reboot can lose Pods to the race with their plugin
// (kubernetes#125579).
//
// The kubelet's own checkpoint file is private to it; this package has a format of its
// own, without topology hints. A Manager is safe for concurrent use. No lock is held
// while a plugin is called, so a plugin that hangs blocks only its own Pods.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/deviceplugin/client"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

const stopGrace = time.Second

// Config configures a Manager.
type Config struct {
	// Root is the kubelet's root directory. The manager owns its subdirectory
	// device-plugins.
	Root string
	// Observe is notified of calls to plugins. Nil means no observer.
	Observe *call.Observer
	// Logger receives plugins that register or disappear, and their mistakes. Nil
	// discards it.
	Logger *slog.Logger
}

// Manager allocates devices to Pods.
type Manager struct {
	dir     string // device-plugins
	observe *call.Observer
	log     *slog.Logger
	ledger  *ledger
	changed chan struct{}
	closing sync.WaitGroup // endpoints that are being closed

	listener net.Listener // made by Listen, until Run serves on it

	mu        sync.Mutex
	stopped   bool    // Run has ended
	refused   refusal // the last plugin that could not register
	resources map[string]*resource
	bySocket  map[string]*client.Endpoint // from plugins_registry, by registration socket
}

// New reads the allocations of an earlier process, creates the directory for plugins,
// and returns the manager. Allocate answers from the record at once; plugins are added
// through Run and Handler. A record that is damaged or of a newer version is
// fault.FailedPrecondition.
func New(c Config) (*Manager, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	dir := filepath.Join(c.Root, "device-plugins")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the directory of device plugins: %w", err)
	}
	l, err := openLedger(filepath.Join(dir, "nodekit_allocations.json"))
	if err != nil {
		return nil, err
	}
	return &Manager{
		dir: dir, observe: c.Observe, log: c.Logger, ledger: l,
		changed:   make(chan struct{}, 1),
		resources: map[string]*resource{}, bySocket: map[string]*client.Endpoint{},
	}, nil
}

// Changed returns a channel that holds a token if plugins or their devices have changed
// since the last token was taken, including devices freed by a Pod: a waiting Pod may
// now get its devices. It is meant for one receiver.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

func (m *Manager) notify() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Listen creates device-plugins/kubelet.sock, which Run serves. It first removes every
// socket in the directory: plugins recognize a restart of the kubelet by that, and
// those that start after Listen keep their sockets. If another kubelet serves there,
// the error is fault.AlreadyExists.
func (m *Manager) Listen() error {
	path := filepath.Join(m.dir, filepath.Base(api.KubeletSocket))
	if err := m.wipe(path); err != nil {
		return err
	}
	l, err := sockfile.Listen(path)
	if err != nil {
		return fmt.Errorf("serving the registration of device plugins: %w", err)
	}
	m.listener = l
	return nil
}

// Close undoes Listen, for a manager that is not run.
func (m *Manager) Close() error {
	if m.listener == nil {
		return nil
	}
	l := m.listener
	m.listener = nil
	return l.Close()
}

// Run serves the registration of device plugins until ctx ends. Then it disconnects all
// plugins and returns nil. It calls Listen if that has not been done.
func (m *Manager) Run(ctx context.Context) error {
	if m.listener == nil {
		if err := m.Listen(); err != nil {
			return err
		}
	}
	l := m.listener
	m.listener = nil
	defer l.Close()
	s := grpc.NewServer(rpc.ServerOptions("deviceplugin", m.log)...)
	api.RegisterRegistrationServer(s, &registrar{m: m})
	err := rpc.Serve(ctx, s, l, stopGrace)
	return errors.Join(err, m.hangUp())
}

// wipe removes the sockets of plugins. It keeps other files, as the kubelet does.
func (m *Manager) wipe(kubelet string) error {
	if conn, err := net.DialTimeout("unix", kubelet, time.Second); err == nil {
		conn.Close()
		return fault.AlreadyExists.Errorf("serving the registration of device plugins: another kubelet serves %q", kubelet)
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("wiping the sockets of device plugins: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Type()&os.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(m.dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("wiping the sockets of device plugins: %w", err))
		}
	}
	return errors.Join(errs...)
}

// hangUp closes every endpoint.
func (m *Manager) hangUp() error {
	m.mu.Lock()
	m.stopped = true
	var open []*client.Endpoint
	for _, r := range m.resources {
		if e := r.end(); e != nil {
			open = append(open, e)
		}
	}
	clear(m.bySocket)
	m.mu.Unlock()
	var errs []error
	for _, e := range open {
		errs = append(errs, e.Close())
	}
	m.closing.Wait()
	return errors.Join(errs...)
}

// registrar is the Registration service.
type registrar struct {
	api.UnimplementedRegistrationServer
	m *Manager
}

// Register accepts a plugin that serves on a socket in the directory.
func (r *registrar) Register(ctx context.Context, in *api.RegisterRequest) (*api.Empty, error) {
	if !filepath.IsLocal(in.GetEndpoint()) {
		err := fault.Invalid.Errorf("registering %q: endpoint %q: want the name of a socket in %q", in.GetResourceName(), in.GetEndpoint(), r.m.dir)
		r.m.refuse(in.GetResourceName(), err)
		return nil, err
	}
	socket := filepath.Join(r.m.dir, in.GetEndpoint())
	if _, err := r.m.register(ctx, in.GetResourceName(), socket, []string{in.GetVersion()}); err != nil {
		return nil, err
	}
	return &api.Empty{}, nil
}

// Handler returns the handler for device plugins in plugins_registry.
func (m *Manager) Handler() registration.Handler {
	return registration.Handler{
		Register: func(ctx context.Context, p registration.Plugin) error {
			e, err := m.register(ctx, p.Name, p.Endpoint, p.Versions)
			if err != nil {
				return err
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.bySocket[p.Socket] = e
			return nil
		},
		Deregister: func(p registration.Plugin) {
			m.mu.Lock()
			e := m.bySocket[p.Socket]
			delete(m.bySocket, p.Socket)
			m.mu.Unlock()
			if e != nil {
				m.lost(e)
			}
		},
	}
}

// register connects to an instance and makes it replace the previous one. The plugin
// has to answer before registration succeeds.
func (m *Manager) register(ctx context.Context, name, socket string, versions []string) (*client.Endpoint, error) {
	e, err := m.connect(ctx, name, socket, versions)
	if err != nil {
		m.refuse(name, err)
	}
	return e, err
}

// refuse records why a plugin could not register, for the Pods that wait for it: the
// plugin gets the error, too, but many ignore it.
func (m *Manager) refuse(name string, err error) {
	m.log.Warn("device plugin refused", "resource", name, "err", err)
	m.mu.Lock()
	m.refused = refusal{name, err}
	m.mu.Unlock()
	m.notify()
}

func (m *Manager) connect(ctx context.Context, name, socket string, versions []string) (*client.Endpoint, error) {
	if !slices.Contains(versions, api.Version) {
		return nil, fault.Invalid.Errorf("registering %q: the plugin speaks version %q, and this node %q", name, versions, api.Version)
	}
	if err := deviceplugin.ValidResource(name); err != nil {
		return nil, err
	}
	e, err := client.Connect(ctx, name, socket, &client.Options{Devices: m.listed, Observe: m.observe.Named(name), Logger: m.log})
	if err != nil {
		return nil, err
	}
	if !m.install(e) {
		return nil, errors.Join(fault.Unavailable.Errorf("registering %q: the kubelet stops", name), e.Close())
	}
	e.Watch()
	m.log.Info("device plugin registered", "resource", name, "socket", socket)
	return e, nil
}

// install makes the instance replace the previous one, and disconnects that, because
// the two streams must not continue side by side. It returns false if the manager has
// stopped.
func (m *Manager) install(e *client.Endpoint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	r := m.resources[e.Resource()]
	if r == nil {
		r = &resource{}
		m.resources[e.Resource()] = r
	}
	if r.endpoint != nil {
		m.close(r.endpoint)
	}
	r.endpoint = e
	if m.refused.resource == e.Resource() {
		m.refused = refusal{}
	}
	return true
}

// close closes an endpoint in the background, because closing waits for the endpoint's
// callbacks. The caller holds mu, so that hangUp waits for it.
func (m *Manager) close(e *client.Endpoint) {
	m.closing.Go(func() {
		if err := e.Close(); err != nil {
			m.log.Warn("hanging up on a device plugin", "resource", e.Resource(), "err", err)
		}
	})
}

// Package kubelet is a minimal kubelet: it runs the Pods of a Kubernetes API, and those
// of a manifest directory, on any CRI runtime, with the volumes and devices of the
// plugins that register with it.
//
// The package only wires its parts (kubelet/worker, volume, device, probe, client,
// ...), which do not know each other. It is crash-only: killed at any instruction and
// restarted on the same root, it continues with the Pods in whatever state they are. It
// is not a control plane, has no scheduler and joins no cluster.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/rest"

	criclient "github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/topdir"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/device"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/volume"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

// Config configures a kubelet.
type Config struct {
	// Root is the kubelet's root directory, in the upstream kubelet's layout. Only one
	// kubelet at a time can use it. Required, absolute.
	Root string
	// RunDir holds the socket of the HTTP API, nodekit.sock. Required, absolute.
	RunDir string
	// ManifestDir is the directory of manifest files; "" means none. It must exist.
	ManifestDir string
	// NodeName is the node's name in Pods. Required.
	NodeName string
	// ID marks the sandboxes and containers of this node in a runtime that it shares
	// with others. It must stay the same for a given Root. Required.
	ID string
	// API is the Kubernetes API that the kubelet reads and writes objects through. Its
	// Pods are those with this node's name. Required. The API may become unavailable
	// and come back.
	API *rest.Config
	// NodeLabels are labels for the Node object, in addition to those for its host
	// name, operating system and architecture. Node selectors of Pods see them, and the
	// labels that users add to the object.
	NodeLabels map[string]string
	// MaxPods is the maximum number of Pods that run at the same time; zero means 110.
	MaxPods int
	// CRIEndpoint is the socket of the runtime and image services. Required.
	CRIEndpoint string
	// CgroupParent is the parent of the Pods' cgroups, in cgroupfs notation, for this
	// kubelet alone; "" means "/nodekit".
	CgroupParent string
	// SystemdCgroups selects the systemd cgroup driver if the runtime does not report
	// one (RuntimeConfig). What the runtime reports takes precedence.
	SystemdCgroups bool
	// PodPIDs limits the number of tasks of each Pod; zero means no limit.
	PodPIDs int64
	// SingleProcessOOMKill keeps the other processes of a container running when the
	// kernel OOM-kills one. On cgroup v1 that is always so.
	SingleProcessOOMKill bool
	// Observe is notified of calls to the runtime and to plugins. Nil means no
	// observer.
	Observe *call.Observer
	// OnStep is called for every step in a Pod's life, concurrently. It must return
	// quickly. Nil is allowed.
	OnStep func(pod.Step)
	// OnEvent is called for every Pod event for users of the Kubernetes API,
	// concurrently. It must return quickly. Nil is allowed.
	OnEvent func(pod.Event)
	// OnManifest is called for every manifest file that was read. Nil is allowed.
	OnManifest func(manifest.Report)
	// Logger is the kubelet's logger. Nil discards.
	Logger *slog.Logger
}

// Kubelet runs the Pods of one node. Its methods are safe for concurrent use, but Run
// must be called only once.
type Kubelet struct {
	config  Config
	unlock  func() error
	client  *client.Client
	pods    *podCache
	cri     *criclient.Client
	volumes *volume.Manager
	devices *device.Manager

	sources context.Context // ends when manifest files are no longer read
	drain   context.CancelFunc
	closed  sync.Once
	ready   chan struct{}                     // closed when Pods can run
	over    chan struct{}                     // closed when Run has returned
	workers atomic.Pointer[worker.Manager]    // set once the runtime has answered
	labeled atomic.Pointer[map[string]string] // the labels of the node's object, as last seen
}

// New opens the kubelet's root. It does not contact the API or the runtime yet, but
// plugins that start from now on can register. If another node uses the root, the error
// is fault.AlreadyExists. Close releases the root.
func New(c Config) (*Kubelet, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	k := &Kubelet{config: c, pods: newPodCache(), over: make(chan struct{}), ready: make(chan struct{})}
	k.sources, k.drain = context.WithCancel(context.Background())
	if err := k.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the node at %q: %w", c.Root, err), k.Close())
	}
	return k, nil
}

func (c *Config) check() error {
	var errs []error
	for name, value := range map[string]string{"Root": c.Root, "RunDir": c.RunDir} {
		if !filepath.IsAbs(value) {
			errs = append(errs, fault.Invalid.Errorf("%s is %q: want an absolute path", name, value))
		}
	}
	for name, missing := range map[string]bool{"NodeName": c.NodeName == "", "ID": c.ID == "", "API": c.API == nil, "CRIEndpoint": c.CRIEndpoint == ""} {
		if missing {
			errs = append(errs, fault.Invalid.Errorf("%s is missing", name))
		}
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/nodekit"
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnManifest == nil {
		c.OnManifest = func(manifest.Report) {}
	}
	return errors.Join(errs...)
}

func (k *Kubelet) open() (err error) {
	for _, dir := range []string{k.config.Root, k.config.RunDir, k.registry()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	for _, dir := range []string{k.podsDir(), k.logDir()} { // one directory for each Pod
		if err := topdir.Make(dir, 0o750); err != nil {
			return err
		}
	}
	if k.unlock, err = lock(k.config.Root); err != nil {
		return err
	}
	if k.client, err = client.New(k.config.API, k.config.Logger); err != nil {
		return err
	}
	if k.cri, err = criclient.Dial(k.config.CRIEndpoint, &criclient.Options{Observe: k.config.Observe}); err != nil {
		return err
	}
	k.volumes, err = volume.New(volume.Config{
		Root: k.config.Root, NodeName: k.config.NodeName, Objects: objects{k.client},
		Observe: k.config.Observe, Logger: k.config.Logger,
	})
	if err != nil {
		return err
	}
	k.devices, err = device.New(device.Config{Root: k.config.Root, Observe: k.config.Observe, Logger: k.config.Logger})
	if err != nil {
		return err
	}
	return k.devices.Listen()
}

func (k *Kubelet) podsDir() string  { return filepath.Join(k.config.Root, "pods") }
func (k *Kubelet) registry() string { return filepath.Join(k.config.Root, "plugins_registry") }
func (k *Kubelet) logDir() string   { return filepath.Join(k.config.Root, "logs") }

// Client returns the client of the Kubernetes API that the kubelet uses. Pods created
// there are run; Pods deleted there are terminated before their objects are removed.
func (k *Kubelet) Client() *client.Client { return k.client }

// Ready returns a channel that is closed when Run has read the manifests once and the
// runtime has answered: from then on Pods are started and the HTTP API can reach them.
func (k *Kubelet) Ready() <-chan struct{} { return k.ready }

// Close releases the root. Call it after Run has returned. Idempotent.
func (k *Kubelet) Close() error {
	var errs []error
	k.closed.Do(func() {
		k.drain()
		if k.devices != nil {
			errs = append(errs, k.devices.Close())
		}
		if k.cri != nil {
			errs = append(errs, k.cri.Close())
		}
		if k.client != nil {
			k.client.Close()
		}
		if k.unlock != nil {
			errs = append(errs, k.unlock())
		}
	})
	return errors.Join(errs...)
}

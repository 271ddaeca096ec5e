// Package kubelet is a minimal kubelet: it runs the Pods of a Kubernetes API, and
// those of a manifest directory, on any CRI runtime, with the volumes and devices
// of the plugins that register with it.
//
// It only wires its parts (kubelet/worker, volume, device, probe, client, ...),
// which know nothing of each other. It is crash-only: killed at any instruction
// and started again on the same root, it goes on with the Pods as they are. It is
// not a control plane, has no scheduler and joins no cluster.
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
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/device"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/volume"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

// Config says where and with what a kubelet works.
type Config struct {
	// Root is the kubelet's root directory, in the upstream kubelet's layout.
	// One kubelet at a time uses it. Required, absolute.
	Root string
	// RunDir holds the socket of the HTTP API, nodekit.sock. Required, absolute.
	RunDir string
	// ManifestDir is the directory of manifest files; "" for none. It must exist.
	ManifestDir string
	// NodeName is the node's name in Pods. Required.
	NodeName string
	// ID marks what belongs to this node in a runtime that it shares with others.
	// It stays the same as long as Root does. Required.
	ID string
	// API is the Kubernetes API through which the kubelet reads and writes its
	// world: its Pods are those with this node's name. Required. It may go away
	// and come back.
	API *rest.Config
	// NodeLabels are the labels that the node's object is given beside those for its
	// host name, operating system and architecture. Pods that select nodes find
	// them, and what users label the object with.
	NodeLabels map[string]string
	// MaxPods is how many Pods may run at once; zero means 110.
	MaxPods int
	// CRIEndpoint is the runtime's and image service's socket. Required.
	CRIEndpoint string
	// CgroupParent is the cgroup below which Pods get theirs, as the cgroupfs
	// driver names it, this kubelet's alone; "" is "/nodekit".
	CgroupParent string
	// SystemdCgroups has systemd make cgroups where the runtime does not say
	// whether it is to (RuntimeConfig). What the runtime says counts.
	SystemdCgroups bool
	// PodPIDs bounds the tasks of each Pod; zero does not.
	PodPIDs int64
	// SingleProcessOOMKill leaves the other processes of a container alone when
	// the kernel kills one for memory. cgroup v1 knows nothing else.
	SingleProcessOOMKill bool
	// Observe is told of calls to a runtime or plugin; nil is allowed.
	Observe *call.Observer
	// OnStep is told of every step in a Pod's life, from many goroutines; nil is
	// allowed. It must be quick.
	OnStep func(pod.Step)
	// OnEvent is told of every event of a Pod that a user of the Kubernetes API
	// shall hear of, from many goroutines; nil is allowed. It must be quick.
	OnEvent func(pod.Event)
	// OnManifest is told of every manifest file that was read; nil is allowed.
	OnManifest func(manifest.Report)
	// Logger may be nil, which discards.
	Logger *slog.Logger
}

// Kubelet runs the Pods of one node. Its methods are safe for concurrent use;
// Run is called once.
type Kubelet struct {
	config  Config
	unlock  func() error
	client  *client.Client
	pods    *podCache
	cri     *criclient.Client
	volumes *volume.Manager
	devices *device.Manager

	sources context.Context // ends when no new Pods shall come
	drain   context.CancelFunc
	closed  sync.Once
	ready   chan struct{}                     // closed when Pods can run
	over    chan struct{}                     // closed when Run has returned
	workers atomic.Pointer[worker.Manager]    // once the runtime has answered
	labeled atomic.Pointer[map[string]string] // the labels of the node's object, as last seen
}

// New opens the kubelet's root. It talks to nobody yet, but plugins that start
// from now on find it. A root that another node uses is refused with
// fault.AlreadyExists. Close releases it.
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
	for _, dir := range []string{k.config.Root, k.config.RunDir, k.podsDir(), k.registry(), k.logDir()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
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

// Client returns the client of the Kubernetes API that the kubelet works
// through. Pods created there are run; Pods deleted there are ended first.
func (k *Kubelet) Client() *client.Client { return k.client }

// Ready is closed when Run has read the manifests once and the runtime has
// answered: from then on Pods are started, and the HTTP API can reach them.
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

// Package volume is the kubelet's volume manager: it makes a Pod's volumes ready on the
// host before its sandbox exists, and removes them after it is gone.
//
// Everything is below the kubelet's root in the kubelet's own layout, because CSI
// drivers depend on it (pods/<uid>/volumes/kubernetes.io~csi/<pv>/mount,
// plugins/kubernetes.io/csi/<driver>/<hash>/globalmount).
//
// The disk is the state. What was started for a Pod is recorded durably below its
// directory before a driver is called, and the record is removed after the inverse call
// has succeeded, so Unmount works after a kill -9 at any instruction and with all
// objects gone. A staged volume is unstaged when the last Pod's record that names it is
// removed. A dynamically provisioned volume has its own record below <root>/claims,
// written before CreateVolume under a name that a retry repeats, so no volume leaks.
//
// Not supported yet, and rejected by name: block devices, expansion, attaching,
// snapshots, service account tokens, generic ephemeral volumes, image volumes and all
// in-tree plugins. A Manager is safe for concurrent use; calls for one Pod wait for
// each other, as do calls that use the same CSI volume.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Object is a Kubernetes object. Its Go type determines its kind.
type Object = object.Object

// Objects reads and writes Kubernetes objects for the manager. The namespace of
// cluster-scoped objects is "".
type Objects interface {
	// Get reads the object into into, or returns fault.NotFound.
	Get(ctx context.Context, namespace, name string, into Object) error
	// Create stores the object, or returns fault.AlreadyExists.
	Create(ctx context.Context, o Object) error
	Update(ctx context.Context, o Object) error
	// Delete removes the object, or returns fault.NotFound. If o has a UID, it removes
	// only the object with that UID.
	Delete(ctx context.Context, o Object) error
}

// Config configures a Manager. Root, NodeName and Objects are required.
type Config struct {
	Root     string // the kubelet's root directory, absolute
	NodeName string
	Objects  Objects
	// Observe is notified of calls to drivers. Nil means no observer.
	Observe *call.Observer
	Logger  *slog.Logger // nil discards
}

// Manager mounts and unmounts the volumes of Pods.
type Manager struct {
	root    layout
	node    string
	objects Objects
	log     *slog.Logger
	drivers *drivers
	pods    keyed // by Pod uid
	volumes keyed // by driver and volume handle
	claims  keyed // by namespace/name
}

// New returns a manager. It reads nothing and starts nothing.
func New(c Config) (*Manager, error) {
	if !filepath.IsAbs(c.Root) || c.NodeName == "" || c.Objects == nil {
		return nil, fault.Invalid.Errorf("volume manager: an absolute Root, NodeName and Objects are required")
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		root: layout(c.Root), node: c.NodeName, objects: c.Objects, log: log,
		drivers: newDrivers(c.Observe, log),
	}, nil
}

// Mount makes every volume of the Pod ready and returns them by name. It may be called
// again at any time, also after a restart; it then updates the files of configMap,
// secret, projected and downwardAPI volumes.
//
// A *pod.WaitError says what is missing and what to do about it. A *pod.RejectError
// says that the Pod requests something unsupported. After any error some of the volumes
// may be mounted; Unmount removes them.
func (m *Manager) Mount(ctx context.Context, p *v1.Pod) (pod.Volumes, error) {
	ctx = call.WithPod(ctx, pod.CallOf(p))
	unlock, err := m.pods.lock(ctx, string(p.UID))
	if err != nil {
		return nil, err
	}
	defer unlock()
	mounted := make([]pod.Volume, len(p.Spec.Volumes))
	errs := make([]error, len(p.Spec.Volumes))
	var group errgroup.Group
	group.SetLimit(8)
	for i := range p.Spec.Volumes {
		group.Go(func() error {
			mounted[i], errs[i] = m.mount(ctx, p, &p.Spec.Volumes[i])
			return nil
		})
	}
	group.Wait() //nolint:errcheck // the functions keep their errors in errs
	volumes := pod.Volumes{}
	for i, v := range p.Spec.Volumes {
		volumes[v.Name] = mounted[i]
		errs[i] = named(v.Name, errs[i])
	}
	if err := worst(errs); err != nil {
		return nil, err
	}
	return volumes, nil
}

// named adds the volume's name to an error, and to the message of a rejection, because
// a Pod's status shows nothing else of it.
func named(volume string, err error) error {
	if err == nil {
		return nil
	}
	var reject *pod.RejectError
	if errors.As(err, &reject) {
		return &pod.RejectError{Reason: reject.Reason, Message: fmt.Sprintf("volume %q: %s", volume, reject.Message)}
	}
	return fmt.Errorf("volume %q: %w", volume, err)
}

// worst returns what the worker must act on first: a rejection, or failures, or waits.
// It leaves the others for the next try: in a joined error, a wait would hide the
// failures.
func worst(errs []error) error {
	var waits, failures []error
	for _, err := range errs {
		var reject *pod.RejectError
		switch {
		case err == nil:
		case errors.As(err, &reject):
			return err
		case pod.Waiting(err) != nil:
			waits = append(waits, err)
		default:
			failures = append(failures, err)
		}
	}
	if len(failures) > 0 {
		return errors.Join(failures...)
	}
	return errors.Join(waits...)
}

func (m *Manager) mount(ctx context.Context, p *v1.Pod, v *v1.Volume) (pod.Volume, error) {
	switch {
	case v.EmptyDir != nil:
		return m.mountEmptyDir(p, v)
	case v.HostPath != nil:
		return mountHostPath(v.HostPath)
	case v.ConfigMap != nil, v.Secret != nil, v.Projected != nil, v.DownwardAPI != nil:
		return m.mountFiles(ctx, p, v)
	case v.PersistentVolumeClaim != nil:
		return m.mountClaim(ctx, p, v)
	case v.CSI != nil:
		return m.mountInline(ctx, p, v)
	}
	return pod.Volume{}, refuse("its source is none of emptyDir, hostPath, configMap, secret, projected, downwardAPI, persistentVolumeClaim and csi, which are supported")
}

// Unmount removes every volume of the Pod, using only the records on disk. It is
// idempotent. The Pod's containers must have ended. A *pod.WaitError names a driver
// that must register first.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	if call.PodFrom(ctx).IsZero() {
		ctx = call.WithPod(ctx, call.Pod{UID: string(uid)})
	}
	unlock, err := m.pods.lock(ctx, string(uid))
	if err != nil {
		return err
	}
	defer unlock()
	plugins, err := readNames(m.root.volumes(uid))
	if err != nil {
		return err
	}
	var errs []error
	for _, plugin := range plugins {
		dir := filepath.Join(m.root.volumes(uid), plugin)
		volumes, err := readNames(dir)
		errs = append(errs, err)
		for _, v := range volumes {
			errs = append(errs, named(v, m.unmount(ctx, plugin, filepath.Join(dir, v))))
		}
		errs = append(errs, removeEmpty(dir))
	}
	errs = append(errs, removeEmpty(m.root.volumes(uid)))
	if err := worst(errs); err != nil {
		return fmt.Errorf("unmounting the volumes of pod %q: %w", uid, err)
	}
	// The Pod's directory has other owners; it is removed when it is empty.
	os.Remove(m.root.pod(uid)) // ENOTEMPTY is normal
	return nil
}

func (m *Manager) unmount(ctx context.Context, plugin, dir string) error {
	if plugin == pluginCSI {
		return m.unmountCSI(ctx, dir)
	}
	return removeTree(dir)
}

// Pods returns the Pods that have volumes on disk, fully or partly mounted.
func (m *Manager) Pods() ([]types.UID, error) {
	names, err := readNames(filepath.Join(string(m.root), "pods"))
	if err != nil {
		return nil, err
	}
	var uids []types.UID
	for _, n := range names {
		plugins, err := readNames(m.root.volumes(types.UID(n)))
		if err != nil {
			return nil, err
		}
		if len(plugins) > 0 {
			uids = append(uids, types.UID(n))
		}
	}
	return uids, nil
}

// Changed delivers a value after a driver has registered or disappeared, which is when
// a waiting Pod should be tried again. One value may stand for several changes. It is
// meant for one receiver.
func (m *Manager) Changed() <-chan struct{} { return m.drivers.changed }

// refuse returns the error for what nodekit does not support.
func refuse(format string, args ...any) error {
	return &pod.RejectError{Reason: "UnsupportedVolume", Message: fmt.Sprintf(format, args...)}
}

// wait returns the error for something that is missing.
func wait(err error, format string, args ...any) error {
	return &pod.WaitError{Reason: "FailedMount", For: fmt.Sprintf(format, args...), Err: err}
}

// layout is the kubelet's root directory, with the paths below it.
type layout string

const (
	pluginCSI       = "kubernetes.io~csi"
	pluginEmptyDir  = "kubernetes.io~empty-dir"
	pluginConfigMap = "kubernetes.io~configmap"
	pluginSecret    = "kubernetes.io~secret"
	pluginProjected = "kubernetes.io~projected"
	pluginDownward  = "kubernetes.io~downward-api"
)

func (l layout) pod(uid types.UID) string { return filepath.Join(string(l), "pods", string(uid)) }

func (l layout) volumes(uid types.UID) string { return filepath.Join(l.pod(uid), "volumes") }

// volume returns the directory of one volume of a Pod.
func (l layout) volume(uid types.UID, plugin, name string) string {
	return filepath.Join(l.volumes(uid), plugin, name)
}

// staged returns the directory of a volume that is staged on this node.
func (l layout) staged(driver, handle string) string {
	return filepath.Join(string(l), "plugins", "kubernetes.io", "csi", driver, hash(handle))
}

func (l layout) claims() string { return filepath.Join(string(l), "claims") }

// makeDurable creates dir and its parents and makes their entries durable, so that a
// record inside is found after a crash of the machine.
func makeDurable(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDurable(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return atomicfile.SyncDir(parent)
}

// readNames returns the names in dir; none if it does not exist. It skips names that
// begin with a dot, which are interrupted writes.
func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// removeEmpty removes dir if it is empty apart from interrupted writes.
func removeEmpty(dir string) error {
	names, err := readNames(dir)
	if err != nil || len(names) > 0 {
		return err
	}
	return mount.RemoveAll(dir)
}

package volume

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/registration"
)

// driver is a registered CSI driver.
type driver struct {
	*client.Client
	info   *client.Info
	socket string // of the registration; identifies the instance
}

// stages reports whether volumes are staged before they are published.
func (d *driver) stages() bool {
	return d.info.NodeCan(spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
}

// drivers are the registered CSI drivers. The newest instance of a name is used; when
// it disappears, the previous one is used again if it is still there.
type drivers struct {
	observe *call.Observer
	log     *slog.Logger
	changed chan struct{}

	mu    sync.Mutex
	known map[string][]*driver // by name, the newest last
}

func newDrivers(observe *call.Observer, log *slog.Logger) *drivers {
	return &drivers{observe: observe, log: log, changed: make(chan struct{}, 1), known: map[string][]*driver{}}
}

// Handler returns the handler for CSI drivers in the plugin registry.
func (m *Manager) Handler() registration.Handler {
	return registration.Handler{Register: m.drivers.register, Deregister: m.drivers.deregister}
}

func (d *drivers) register(ctx context.Context, p registration.Plugin) error {
	if !slices.ContainsFunc(p.Versions, supported) {
		return fault.Invalid.Errorf("driver %q supports the versions %q; 1.x.y is needed", p.Name, p.Versions)
	}
	c, err := client.Dial(cmp.Or(p.Endpoint, p.Socket), &client.Options{Observe: d.observe.Named(p.Name)})
	if err != nil {
		return err
	}
	info, err := c.GetInfo(ctx)
	if err == nil && info.Name != p.Name {
		err = fault.Invalid.Errorf("driver %q registered, and GetPluginInfo calls itself %q", p.Name, info.Name)
	}
	if err == nil && info.NodeID == "" {
		err = fault.Invalid.Errorf("driver %q registered for this node and has no node id: NodeGetInfo must return one", p.Name)
	}
	if err != nil {
		c.Close()
		return fmt.Errorf("asking driver %q for its capabilities: %w", p.Name, err)
	}
	d.remove(p.Name, p.Socket)
	d.mu.Lock()
	d.known[p.Name] = append(d.known[p.Name], &driver{Client: c, info: info, socket: p.Socket})
	d.mu.Unlock()
	d.log.InfoContext(ctx, "registered a CSI driver", "driver", p.Name, "version", info.Version, "node_id", info.NodeID)
	d.notify()
	return nil
}

func supported(version string) bool {
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	return major == "1"
}

func (d *drivers) deregister(p registration.Plugin) {
	d.remove(p.Name, p.Socket)
	d.log.Info("a CSI driver is gone", "driver", p.Name)
	d.notify()
}

func (d *drivers) remove(name, socket string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[name] = slices.DeleteFunc(d.known[name], func(x *driver) bool {
		if x.socket == socket {
			x.Close()
		}
		return x.socket == socket
	})
	if len(d.known[name]) == 0 {
		delete(d.known, name)
	}
}

func (d *drivers) notify() {
	select {
	case d.changed <- struct{}{}:
	default: // a value is pending already
	}
}

// get returns the driver, or an error that says what to wait for.
func (d *drivers) get(name string) (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if list := d.known[name]; len(list) > 0 {
		return list[len(list)-1], nil
	}
	known := "no driver is registered"
	if len(d.known) > 0 {
		known = fmt.Sprintf("registered are %q", slices.Sorted(maps.Keys(d.known)))
	}
	return nil, wait(nil, "CSI driver %q to register in plugins_registry (%s): start it, for example with nodekit run --plugin", name, known)
}

// provisioner returns the only driver that can create volumes, for claims that name no
// class.
func (d *drivers) provisioner() (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name, list := range d.known {
		if list[len(list)-1].info.Can(spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME) {
			names = append(names, name)
		}
	}
	switch slices.Sort(names); len(names) {
	case 0:
		return nil, wait(nil, "a CSI driver that creates volumes to register in plugins_registry: start one, or set volumeName to an existing PersistentVolume")
	case 1:
		list := d.known[names[0]]
		return list[len(list)-1], nil
	}
	return nil, wait(nil, "a storageClassName: the drivers %q can all create volumes", names)
}

package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

// DefaultKubeletDir is the kubelet's default root directory.
const DefaultKubeletDir = "/var/lib/kubelet"

// longDiscovery is the time after which a first list is late.
const longDiscovery = 5 * time.Second

// Options configures Serve. Nil means the defaults.
type Options struct {
	// KubeletDir is the kubelet's root directory; device-plugins below it holds
	// kubelet.sock and the plugin's own socket. Empty means DefaultKubeletDir.
	KubeletDir string
	// Logger receives registrations, restarts of the kubelet, invalid lists and
	// allocations, and one debug line per call. Nil discards them.
	Logger *slog.Logger
}

// Serve runs the plugin until ctx ends. Then it ends the kubelet's streams, removes its
// socket and returns nil. It does not send an empty list: the devices have not gone,
// only the plugin has.
//
// A kubelet that is not running, rejects the plugin or restarts is not an error: Serve
// registers again, within milliseconds after kubelet.sock appears. Serve returns an
// error if the plugin breaks the contract (ErrInvalid), if Watch returns one, or if
// another process serves the same resource here and does not end within 10 s.
func Serve(ctx context.Context, p *Plugin, opts *Options) error {
	if err := p.validate(); err != nil {
		return err
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.KubeletDir == "" {
		o.KubeletDir = DefaultKubeletDir
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(filepath.Join(o.KubeletDir, "device-plugins"))
	if err != nil {
		return fmt.Errorf("finding the kubelet's directory: %w", err)
	}
	log := o.Logger.With("resource", p.Resource)
	log.Info("serving a device plugin", "dir", dir, "allocate", p.Allocate != nil, "prefer", p.Prefer != nil, "prestart", p.PreStart != nil)

	ctx, cancel := context.WithCancel(ctx)
	devices := newInventory(log)
	watched := make(chan error, 1)
	go func() {
		err := watch(ctx, p, devices)
		if err != nil {
			cancel()
		}
		watched <- err
	}()
	awaitList(ctx, devices, log)
	r := &registrar{plugin: p, devices: devices, dir: dir, socket: socketName(dir, p.Resource), log: log}
	err = r.run(ctx)
	cancel()
	return errors.Join(<-watched, err)
}

// watch runs the author's Watch. The end of ctx is not an error.
func watch(ctx context.Context, p *Plugin, devices *inventory) error {
	err := p.Watch(ctx, devices.update)
	switch list, _ := devices.get(); {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("watching the devices of %q: %w", p.Resource, err)
	case list == nil:
		return fault.Invalid.Errorf("watching the devices of %q: Watch returned without a list", p.Resource)
	}
	return nil
}

// awaitList waits for the first list or the end of ctx. It logs a warning if that takes
// long, since it is easy to write a Watch that never calls update.
func awaitList(ctx context.Context, devices *inventory, log *slog.Logger) {
	long := time.AfterFunc(longDiscovery, func() {
		log.Warn("not registering yet: Watch has not called update", "after", longDiscovery)
	})
	defer long.Stop()
	list, changed := devices.get()
	if list != nil {
		return
	}
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// socketName returns a name that is the same at each start, so that the socket of a
// killed predecessor is replaced and sockets do not pile up.
func socketName(dir, resource string) string {
	name := strings.ReplaceAll(resource, "/", "_") + ".sock"
	if len(filepath.Join(dir, name)) <= sockfile.MaxPath {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(resource))
	return fmt.Sprintf("%08x.sock", h.Sum32())
}

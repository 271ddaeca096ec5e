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

// DefaultKubeletDir is the root directory of a kubelet that was not told
// another.
const DefaultKubeletDir = "/var/lib/kubelet"

// longDiscovery is when a first list is late.
const longDiscovery = 5 * time.Second

// Options are the options of Serve; nil means the defaults.
type Options struct {
	// KubeletDir is the kubelet's root directory; device-plugins below it holds
	// kubelet.sock and the plugin's own socket. Empty means DefaultKubeletDir.
	KubeletDir string
	// Logger gets registrations, restarts of the kubelet and what is wrong with
	// lists and allocations; one debug line a call. Nil discards.
	Logger *slog.Logger
}

// Serve runs the plugin until ctx ends; it ends the kubelet's streams, removes
// its socket and returns nil then. It sends no empty list on the way: the
// devices have not gone, only the plugin has.
//
// A kubelet that is not there, refuses the plugin or restarts is not an error:
// Serve registers again, within milliseconds after kubelet.sock appears.
// Errors are a plugin that breaks the contract (ErrInvalid), a Watch that ends
// with one, and another process that serves the same resource here and does not
// end within 10 s.
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

// watch runs the author's Watch. The end of ctx is no error.
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

// awaitList waits for the first list or the end of ctx. It says so when that
// takes long: a Watch that does not call update is easily written.
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

// socketName returns a name that is the same at each start, so that what a
// killed predecessor left is replaced and never piles up.
func socketName(dir, resource string) string {
	name := strings.ReplaceAll(resource, "/", "_") + ".sock"
	if len(filepath.Join(dir, name)) <= sockfile.MaxPath {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(resource))
	return fmt.Sprintf("%08x.sock", h.Sum32())
}

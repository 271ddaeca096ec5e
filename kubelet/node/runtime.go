package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/loopback"
	"github.com/nodekit-project/nodekit/cni/portmap"
	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/nri"
	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// RuntimeConfig configures the reference runtime. Its fields have the meaning of those
// of the same name in Config.
type RuntimeConfig struct {
	Endpoint   string // the socket to serve on
	Root, Run  string
	OCIRuntime string
	Handlers   map[string]string
	CDIDirs    []string
	Keeper     string

	BlockIOClasses string
	RDTClasses     []string

	NoSELinux      bool
	SystemdCgroups bool
	NRI            NRI

	CNIConfDir     string
	CNIBinDirs     []string
	CNITimeout     time.Duration
	CNITimeouts    map[string]time.Duration
	CNIImportCache string
	Network        Network // zero: chosen at the first start

	CheckNetwork time.Duration

	Observe  *call.Observer
	OnPull   func(Pull)
	OnStderr func(plugin, line string)
	Logger   *slog.Logger

	Images       []string // archives to load at start
	PinnedImages []string
	HostsDir     string

	// Ready is called once, when calls are accepted. It must be quick. Nil is allowed.
	Ready func()
	// Ephemeral removes everything when ServeRuntime ends.
	Ephemeral bool

	// chainType replaces the bridge with a plugin of the author, with addresses from
	// host-local unless chainBare is set.
	chainType string
	chainBare bool
}

// Runtime is the reference runtime with its image store and its network.
type Runtime struct {
	cfg     RuntimeConfig
	oci     *oci.Runtime
	plugins *nri.Plugins // nil without NRI
	images  *image.Store
	network *cniruntime.Network
	// leave waits for what the network's plugins still do after Network.Close.
	leave func() error
}

// ServeRuntime serves only the reference runtime until ctx ends, for an upstream
// kubelet or crictl. It then returns nil and leaves the containers running; a later
// call with the same directories takes them over. With Ephemeral it ends the containers
// and removes everything that the runtime has set up on the machine, except its
// directories.
func ServeRuntime(ctx context.Context, cfg RuntimeConfig) error {
	if cfg.Keeper == "" {
		keeper, err := findProgram("keeper")
		if err != nil {
			return err
		}
		cfg.Keeper = keeper
	}
	if _, err := rpc.SocketPath(cfg.Endpoint); err != nil {
		return err
	}
	r, err := openRuntime(ctx, cfg)
	if err != nil {
		return err
	}
	// As for a node: a shared mount made later would hide earlier mounts below it.
	if err := mount.MakeShared(cfg.Root); err != nil {
		return errors.Join(err, r.close())
	}
	served := r.load(ctx)
	if served == nil {
		served = r.serve(ctx)
	}
	if !cfg.Ephemeral {
		return errors.Join(served, r.close())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeDownWithin)
	defer cancel()
	return errors.Join(served, r.destroy(ctx), removeCgroups(cfg.Root), mount.UndoShared(cfg.Root))
}

// openRuntime makes the runtime ready. It must be closed or destroyed.
func openRuntime(ctx context.Context, cfg RuntimeConfig) (*Runtime, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{cfg.Root, cfg.Run} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	// Before the keeper is started, which would stay.
	if err := errors.Join(rpc.Check(cfg.Endpoint), nri.CheckSocket(cfg.NRI.Socket)); err != nil {
		return nil, err
	}
	r := &Runtime{cfg: cfg}
	var err error
	if err := r.openNetwork(ctx); err != nil {
		return nil, err
	}
	if r.images, err = image.Open(imageDir(cfg.Root), r.imageOptions()); err != nil {
		return nil, errors.Join(err, r.closeNetwork())
	}
	var adjust func(context.Context, *cri.Container, *specs.Spec) error
	if cfg.NRI.enabled() {
		r.plugins = nri.New(nri.Config{Socket: cfg.NRI.Socket, PluginDir: cfg.NRI.PluginDir, ConfigDir: cfg.NRI.ConfigDir, Timeout: cfg.NRI.Timeout, Logger: cfg.Logger})
		adjust = r.plugins.Adjust
	}
	r.oci, err = oci.New(ctx, oci.Config{
		Adjust:   adjust,
		StateDir: filepath.Join(cfg.Root, "oci"), RunDir: filepath.Join(cfg.Run, "oci"),
		CgroupParent: cgroupParent(cfg.Root), Systemd: cfg.SystemdCgroups,
		Runtime: cfg.OCIRuntime, Handlers: cfg.Handlers, CDIDirs: cfg.CDIDirs, Keeper: cfg.Keeper,
		BlockIOClasses: cfg.BlockIOClasses, RDTClasses: cfg.RDTClasses, NoSELinux: cfg.NoSELinux,
		Network: r.network, Images: r.images, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, r.closeNetwork())
	}
	return r, nil
}

// engines lists the OCI runtimes: the default one, and those of handlers.
func (r *Runtime) engines() string {
	text := filepath.Base(r.oci.Engine())
	all := r.oci.Handlers()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name != "" {
			text += fmt.Sprintf(", %s for %q", filepath.Base(all[name]), name)
		}
	}
	return text
}

func (r *Runtime) imageOptions() *image.Options {
	o := &image.Options{Logger: r.cfg.Logger, Hosts: r.cfg.HostsDir}
	if tell := r.cfg.OnPull; tell != nil {
		o.Progress = func(ref string, p image.Progress) {
			tell(Pull{Image: ref, Layer: p.Layer, Done: p.Done, Total: p.Total})
		}
	}
	return o
}

// load loads the configured archives into the image store. Their images are pinned,
// because no registry may have them if a kubelet garbage-collects them.
func (r *Runtime) load(ctx context.Context) error {
	pinned := slices.Clone(r.cfg.PinnedImages)
	for _, a := range r.cfg.Images {
		names, err := r.images.Load(ctx, a)
		if err != nil {
			return fmt.Errorf("loading %q: %w", a, err)
		}
		pinned = append(pinned, names...)
	}
	return r.images.Pin(ctx, pinned)
}

// PackImage creates an image of one static program, its entry point, and returns it as
// an archive for Config.Images.
func PackImage(program, name string) (archive []byte, err error) { return image.Pack(program, name) }

// imageDir returns the directory of the image store of the runtime at root.
func imageDir(root string) string { return filepath.Join(root, "oci", "images") }

// defaultCheckNetwork is how often each Pod's network is checked.
const defaultCheckNetwork = time.Minute

// serve serves the CRI, and watches the Pods' network, until ctx ends.
func (r *Runtime) serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.network.Watch(ctx, cmp.Or(r.cfg.CheckNetwork, defaultCheckNetwork)) })
	defer watch.Wait() // before the network is closed
	defer stop()
	served := r.oci.CRI()
	if r.plugins != nil {
		if err := r.plugins.Extend(served, nri.Methods{Spec: r.oci.Spec, InjectCDI: r.oci.InjectCDI, BlockIO: r.oci.BlockIO, RDT: r.oci.RDT}); err != nil {
			return err
		}
		defer r.plugins.Close()
	}
	return cri.Serve(ctx, r.cfg.Endpoint, served, &cri.Options{StateDir: filepath.Join(r.cfg.Root, "cri"), Logger: r.cfg.Logger, Ready: r.cfg.Ready})
}

// close releases the runtime and leaves its containers running.
func (r *Runtime) close() error { return errors.Join(r.oci.Close(), r.closeNetwork()) }

func (r *Runtime) closeNetwork() error { return errors.Join(r.network.Close(), r.leave()) }

// destroy removes everything that the runtime has set up on the machine.
func (r *Runtime) destroy(ctx context.Context) error {
	errs := []error{r.oci.Shutdown(ctx), r.closeNetwork()}
	if n := r.cfg.Network; r.cfg.CNIConfDir == "" {
		errs = append(errs,
			bridge.Teardown(ctx, bridge.Config{Bridge: n.Bridge, NFTTable: n.Table}),
			portmap.Teardown(ctx, portmap.Config{NFTTable: n.portTable()}))
	}
	return errors.Join(errs...)
}

// openNetwork opens the configured network, or the node's own, whose plugins are called
// in process.
func (r *Runtime) openNetwork(ctx context.Context) (err error) {
	if r.cfg.CNIConfDir != "" {
		r.leave = func() error { return nil }
		if r.network, err = openNetwork(&r.cfg, nil); err == nil {
			r.importAttachments(ctx)
		}
		return err
	}
	connect, leave := bridge.Resident()
	forward, disconnect := portmap.Resident()
	r.leave = func() error { return errors.Join(leave(), disconnect()) }
	plugins := map[string]*cni.Plugin{}
	for _, p := range []*cni.Plugin{connect, hostlocal.Plugin(), forward, loopback.Plugin()} {
		plugins[p.Name] = p
	}
	if r.network, err = openNetwork(&r.cfg, plugins); err != nil {
		return errors.Join(err, r.leave())
	}
	return nil
}

// importAttachments imports the attachments that a retired runtime has left. The
// runtime finds no sandboxes for them when it starts, and detaches them like those left
// by a crash. What cannot be read is logged and delays nothing.
func (r *Runtime) importAttachments(ctx context.Context) {
	dir := r.cfg.CNIImportCache
	if dir == "" {
		return
	}
	if _, err := os.Stat(dir); err != nil { // it may have been removed
		r.cfg.Logger.Warn("no attachments of another runtime are taken over", "err", err)
		return
	}
	imported, err := r.network.Import(ctx, dir)
	if err != nil {
		r.cfg.Logger.Warn("attachments of another runtime are not taken over", "directory", dir, "err", err)
	}
	if len(imported) > 0 {
		r.cfg.Logger.Info("took over attachments of another runtime, to detach them", "directory", dir, "count", len(imported))
	}
}

func openNetwork(cfg *RuntimeConfig, builtin map[string]*cni.Plugin) (*cniruntime.Network, error) {
	c := cniruntime.Config{
		ConfDir: cfg.CNIConfDir, BinDirs: cfg.CNIBinDirs, StateDir: filepath.Join(cfg.Root, "cni"),
		PluginTimeout: cfg.CNITimeout, Timeouts: cfg.CNITimeouts,
		Observe: cfg.Observe, OnStderr: cfg.OnStderr, Logger: cfg.Logger,
	}
	if cfg.CNIConfDir != "" || cfg.chainType != "" {
		if err := addDelegates(&c, cfg); err != nil {
			return nil, fmt.Errorf("providing the reference CNI plugins: %w", err)
		}
	}
	if cfg.CNIConfDir != "" {
		// An external network gets its own programs, even if a reference plugin has the
		// same name: that is what a user who brings them wants to run.
		return cniruntime.Open(c)
	}
	c.Builtin = builtin
	if cfg.Network == (Network{}) {
		var err error
		if cfg.Network, err = networkOf(cfg.Root); err != nil {
			return nil, err
		}
	}
	c.ConfDir = filepath.Join(c.StateDir, "net.d")
	if err := writeChain(c.ConfDir, cfg); err != nil {
		return nil, fmt.Errorf("configuring the node's network: %w", err)
	}
	return cniruntime.Open(c)
}

// network describes the node's own network, for users. If a plugin of the author
// replaces the bridge there is none, and the addresses are only offered to a plugin
// that takes them.
func (c *RuntimeConfig) network() string {
	switch {
	case c.chainType == "":
		return fmt.Sprintf("bridge %s, Pods in %s", c.Network.Bridge, c.Network.Subnet)
	case c.chainBare:
		return fmt.Sprintf("network %s of plugin %s", c.Network.Bridge, c.chainType)
	}
	return fmt.Sprintf("network %s of plugin %s, Pods in %s", c.Network.Bridge, c.chainType, c.Network.Subnet)
}

// addDelegates adds the directory of the reference plugins, as programs: after those of
// an external network, and, for a plugin of the author, after its own and before the
// machine's.
func addDelegates(c *cniruntime.Config, cfg *RuntimeConfig) error {
	delegates, err := linkDelegates(filepath.Join(cfg.Root, "cni", "bin"))
	if err != nil {
		return err
	}
	at := len(c.BinDirs)
	if cfg.chainType != "" {
		at = 1
	}
	c.BinDirs = slices.Insert(slices.Clone(c.BinDirs), at, delegates...)
	return nil
}

// writeChain writes the node's own network configuration, as a user would write it in
// /etc/cni/net.d.
func writeChain(dir string, cfg *RuntimeConfig) error {
	ipam := map[string]any{
		"type": "host-local", "dataDir": filepath.Join(cfg.Root, "cni", "addresses"),
		"ranges": [][]map[string]string{{{"subnet": cfg.Network.Subnet}}},
	}
	first := map[string]any{
		"type": "bridge", "bridge": cfg.Network.Bridge, "nftTable": cfg.Network.Table,
		"isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam,
	}
	chain := []map[string]any{first, {
		"type": "portmap", "nftTable": cfg.Network.portTable(), "capabilities": map[string]bool{"portMappings": true},
	}}
	if cfg.chainType != "" {
		chain[0] = map[string]any{"type": cfg.chainType}
		if !cfg.chainBare {
			chain[0]["ipam"] = ipam
		}
	}
	raw, err := json.MarshalIndent(map[string]any{"cniVersion": "1.1.0", "name": cfg.Network.Bridge, "plugins": chain}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "10-nodekit.conflist"), raw, 0o644)
}

// cgroupParent returns the parent of all cgroups of the node, in cgroupfs notation.
func cgroupParent(root string) string {
	return "/nodekit-" + deriveID(root)
}

// removeCgroups removes all cgroups of the node, whichever driver created them.
func removeCgroups(root string) error {
	parent := cgroupParent(root)
	return errors.Join(cgroup.Remove(parent), cgroup.Remove(cgroup.Slice(parent)))
}

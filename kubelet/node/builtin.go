package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/hostpath"
	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/deviceplugin/gpu"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// startParts starts the author's plugins, and then the reference part of every kind
// that they do not replace.
func (n *Node) startParts(ctx context.Context) error {
	authors, err := n.startAuthors(ctx)
	if err != nil {
		return err
	}
	is := func(k Kind) bool {
		return slices.ContainsFunc(authors, func(a *author) bool { return a.sign.kind == k })
	}
	if n.cfg.RuntimeEndpoint == "" && !is(CRI) {
		if err := n.startRuntime(ctx, authors); err != nil {
			return fmt.Errorf("the runtime: %w", err)
		}
	}
	if !n.cfg.Without.Hostpath && !is(CSI) {
		if err := n.startHostpath(); err != nil {
			return fmt.Errorf("the hostpath driver: %w", err)
		}
	}
	if !n.cfg.Without.GPU && n.cfg.GPUs >= 0 && !is(DevicePlugin) {
		if err := n.startGPU(); err != nil {
			return fmt.Errorf("the GPU plugin: %w", err)
		}
	}
	for _, a := range authors {
		if a.sign.kind != CNI {
			n.keep(a)
		}
	}
	return nil
}

// shareRoot makes the root a shared mount of its own, so that mounts below it propagate
// to containers and to plugins in other mount namespaces.
func (n *Node) shareRoot() error {
	if err := mount.MakeShared(n.cfg.Root); err != nil {
		return err
	}
	n.onDestroy(func(context.Context) error { return mount.UndoShared(n.cfg.Root) })
	return nil
}

func (n *Node) startRuntime(ctx context.Context, authors []*author) error {
	cfg := RuntimeConfig{
		Endpoint: n.criEndpoint(), Root: n.cfg.Root, Run: n.cfg.Run,
		OCIRuntime: n.cfg.OCIRuntime, Handlers: n.cfg.Handlers, CDIDirs: n.cfg.CDIDirs, Keeper: n.cfg.Keeper, SystemdCgroups: n.cfg.SystemdCgroups, NRI: n.cfg.NRI,
		BlockIOClasses: n.cfg.BlockIOClasses, RDTClasses: n.cfg.RDTClasses, NoSELinux: n.cfg.NoSELinux,
		CNIConfDir: n.cfg.CNIConfDir, CNIBinDirs: n.cfg.CNIBinDirs,
		CNITimeout: n.cfg.CNITimeout, CNITimeouts: n.cfg.CNITimeouts, CNIImportCache: n.cfg.CNIImportCache,
		Network: n.cfg.Network, CheckNetwork: n.cfg.CheckNetwork,
		Images: n.cfg.Images, PinnedImages: n.cfg.PinnedImages, HostsDir: n.cfg.HostsDir,
		Observe: n.cfg.Observe, OnPull: n.cfg.OnPull, OnStderr: n.cfg.OnStderr, Logger: n.cfg.Logger,
	}
	for _, a := range authors {
		if a.sign.kind == CNI {
			cfg.chainType, cfg.chainBare = a.name(), refusesIPAM(ctx, a.Path)
			cfg.CNIBinDirs = append([]string{filepath.Dir(a.Path)}, cfg.CNIBinDirs...)
		}
	}
	r, err := openRuntime(ctx, cfg)
	if err != nil {
		return err
	}
	n.runtime = r
	n.onDestroy(r.destroy)
	n.onStop(r.close)
	if err := r.load(ctx); err != nil {
		return err
	}
	n.parts.run("runtime", r.serve)
	return nil
}

func (n *Node) startHostpath() error {
	driver, err := hostpath.New(hostpath.Config{NodeID: n.cfg.Name, StateDir: filepath.Join(n.cfg.Root, "hostpath"), Logger: n.cfg.Logger})
	if err != nil {
		return err
	}
	dir := filepath.Join(n.cfg.Root, "plugins", driver.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	n.parts.run("hostpath driver", func(ctx context.Context) error {
		return csi.Serve(ctx, "unix://"+filepath.Join(dir, "csi.sock"), driver,
			&csi.Options{Registry: filepath.Join(n.cfg.Root, "plugins_registry"), Logger: n.cfg.Logger})
	})
	return nil
}

func (n *Node) startGPU() error {
	plugin, err := gpu.New(gpu.Config{Simulate: n.cfg.GPUs, StateDir: filepath.Join(n.cfg.Root, "gpu"), Logger: n.cfg.Logger})
	if err != nil {
		return err
	}
	n.parts.run("GPU plugin", func(ctx context.Context) error {
		return deviceplugin.Serve(ctx, plugin, &deviceplugin.Options{KubeletDir: n.cfg.Root, Logger: n.cfg.Logger})
	})
	return nil
}

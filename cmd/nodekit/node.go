package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/systemd"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// nodeFlags are the flags that configure a node.
type nodeFlags struct {
	verbosity
	partFlags
	root, run, manifests string
	importCache          string
}

// addTo adds the flags. manifests is the default manifest directory.
func (f *nodeFlags) addTo(cmd *cobra.Command, manifests string) {
	f.verbosity.addTo(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.root, "root", defaultRoot, "`directory` for everything that is kept across restarts")
	fs.StringVar(&f.run, "run", defaultRun, "`directory` for sockets")
	fs.StringVar(&f.manifests, "manifests", manifests, "`directory` of the manifests of Pods and other objects")
	f.partFlags.addTo(cmd)
	addCNIImportCache(cmd, &f.importCache)
}

// config returns the configuration that the flags describe.
func (f *nodeFlags) config() (node.Config, error) {
	cfg := node.Config{Root: f.root, Run: f.run, Manifests: f.manifests, Logger: f.logger(slog.LevelInfo)}
	if err := errors.Join(ownDirs(&cfg.Root, &cfg.Run), absolute(&cfg.Manifests)); err != nil {
		return cfg, err
	}
	if err := f.apply(&cfg); err != nil {
		return cfg, err
	}
	if cfg.RuntimeEndpoint != "" && f.importCache != "" {
		return cfg, fault.Invalid.Errorf("--cni-import-cache is for the reference runtime, but --runtime-endpoint selects another: detach the Pods of the old one there")
	}
	cfg.CNIImportCache = f.importCache
	return cfg, completeImportCache(&cfg.CNIImportCache, cfg.CNIConfDir)
}

func newNodeCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "node --root DIR --run DIR --manifests DIR",
		Short: "Run a node until it is interrupted",
		Long: `Run a node with the Pods of the manifest directory. When the node is stopped or killed,
its Pods keep running: the next node with the same --root takes them over without
restarting them. To run it as a service, see nodekit install.

The kubelet's HTTP API is served on the socket nodekit.sock in the run directory:

  curl --unix-socket /run/nodekit/nodekit.sock http://node/pods`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config()
			if err != nil {
				return err
			}
			return runNode(cmd, cfg)
		},
	}
	f.addTo(cmd, "")
	return cmd
}

// ownDirs makes the two directories of a node, or of a runtime that is served alone,
// absolute. They must differ: both have entries of the same names.
func ownDirs(root, run *string) error {
	if *root == "" || *run == "" {
		return fault.Invalid.Errorf("--root %q and --run %q: want two directories", *root, *run)
	}
	if err := absolute(root, run); err != nil {
		return err
	}
	if *root == *run {
		return fault.Invalid.Errorf("--root and --run are both %q: want two directories", *root)
	}
	return nil
}

// absolute makes paths absolute; an empty one stays empty.
func absolute(paths ...*string) error {
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

func runNode(cmd *cobra.Command, cfg node.Config) error {
	service, err := takeNotifier(cfg.Logger)
	if err != nil {
		return err
	}
	n, err := node.Start(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "node %s is up: the kubelet's HTTP API is at %s\n", cfg.Root, filepath.Join(cfg.Run, "nodekit.sock"))
	service.tell(systemd.Ready)
	select {
	case <-cmd.Context().Done():
	case <-n.Done():
	}
	service.tell(systemd.Stopping)
	return n.Stop()
}

// foreignFlags are the flags for the parts that are not the node's own. They are also
// needed to reach these parts when the node is reset.
type foreignFlags struct {
	runtimeEndpoint, cniConfDir string
	cniBinDirs                  []string
	timeouts                    timeoutFlags
}

func (f *foreignFlags) addTo(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.runtimeEndpoint, "runtime-endpoint", "", "use the CRI runtime at this `socket`, and its images, instead of the reference runtime")
	fs.StringVar(&f.cniConfDir, "cni-conf-dir", "", "use the CNI network configured in this `directory` instead of the node's own bridge")
	addCNIBinDir(cmd, &f.cniBinDirs)
	f.timeouts.addTo(cmd)
}

// apply applies the flags. It rejects a plugin directory that was given and does not
// exist; a configuration directory need not exist yet.
func (f *foreignFlags) apply(cfg *node.Config) (err error) {
	if f.runtimeEndpoint != "" {
		if _, err := rpc.SocketPath(f.runtimeEndpoint); err != nil {
			return fmt.Errorf("--runtime-endpoint: %w", err)
		}
	}
	cfg.RuntimeEndpoint, cfg.CNIConfDir = f.runtimeEndpoint, f.cniConfDir
	if cfg.CNIBinDirs, err = binDirs(f.cniBinDirs); err != nil {
		return err
	}
	if cfg.CNITimeout, cfg.CNITimeouts, err = f.timeouts.parse(); err != nil {
		return err
	}
	return absolute(&cfg.CNIConfDir)
}

func addCNIBinDir(cmd *cobra.Command, dirs *[]string) {
	cmd.Flags().StringSliceVar(dirs, "cni-bin-dir", nil, "`directories` of CNI plugins, searched before nodekit's own (default /opt/cni/bin,/usr/lib/cni)")
}

// binDirs returns the given directories of CNI plugins, absolute as plugins need them,
// or else the machine's usual ones.
func binDirs(named []string) ([]string, error) {
	if len(named) == 0 {
		return []string{"/opt/cni/bin", "/usr/lib/cni"}, nil
	}
	dirs := slices.Clone(named)
	for i := range dirs {
		if err := absolute(&dirs[i]); err != nil {
			return nil, err
		}
		if fi, err := os.Stat(dirs[i]); err != nil || !fi.IsDir() {
			return nil, fault.Invalid.Errorf("--cni-bin-dir %q: there is no such directory (%s)", named[i], dirs[i])
		}
	}
	return dirs, nil
}

// partFlags are the flags that replace or disable parts of a node.
type partFlags struct {
	foreignFlags
	handlerFlags
	classFlags
	nriFlags
	ociRuntime, keeper string
	without, plugins   []string
	pluginArgs         []string
	images, pinned     []string
	hostsDir           string
	gpus               int
	systemd            bool // makes the cgroups
	selinux            bool
	checkNetwork       time.Duration
}

func (f *partFlags) addTo(cmd *cobra.Command) {
	f.foreignFlags.addTo(cmd)
	f.handlerFlags.addTo(cmd)
	f.classFlags.addTo(cmd)
	f.nriFlags.addTo(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.ociRuntime, "oci-runtime", "", "OCI `runtime`: crun, runc or a path; by default the first of crun and runc that works")
	fs.StringVar(&f.keeper, "keeper", "", "the keeper `program`; by default the one beside nodekit, or else in PATH")
	fs.StringSliceVar(&f.without, "without", nil, "reference `plugins` that are not started: gpu, csi-hostpath")
	fs.StringArrayVar(&f.plugins, "plugin", nil, "start this `program` and use it instead of the reference plugin of its kind; "+
		"kind=program names the kind: cni, csi, deviceplugin or cri")
	fs.StringArrayVar(&f.pluginArgs, "plugin-args", nil, "`arguments` of the --plugin at the same position, split at spaces; variables such as $(CSI_ENDPOINT) are replaced")
	addImageFlags(cmd, &f.images, &f.pinned, &f.hostsDir)
	addCgroupDriver(cmd, &f.systemd)
	addSELinux(cmd, &f.selinux)
	fs.IntVar(&f.gpus, "gpus", 2, "`number` of GPUs to simulate if the machine has none")
	addCheckNetwork(cmd, &f.checkNetwork)
}

func addSELinux(cmd *cobra.Command, on *bool) {
	cmd.Flags().BoolVar(on, "selinux", true, "give Pods SELinux labels if SELinux is enabled; false ignores the labels that they ask for")
}

func addCheckNetwork(cmd *cobra.Command, d *time.Duration) {
	cmd.Flags().DurationVar(d, "check-network", time.Minute, "`interval` at which each Pod's network is checked, "+
		"and repaired if it was set up by nodekit's own CNI plugins; 0 means never")
}

// orNever converts --check-network for a configuration whose zero value is the default.
func orNever(d time.Duration) (time.Duration, error) {
	switch {
	case d < 0:
		return 0, fault.Invalid.Errorf("--check-network %v: want a positive duration, such as 30s, or 0 for never", d)
	case d == 0:
		return -1, nil
	}
	return d, nil
}

func (f *partFlags) apply(cfg *node.Config) error {
	if err := f.foreignFlags.apply(cfg); err != nil {
		return err
	}
	var err error
	if cfg.Handlers, cfg.CDIDirs, err = f.handlerFlags.parse(); err != nil {
		return err
	}
	if cfg.BlockIOClasses, cfg.RDTClasses, err = f.classFlags.parse(); err != nil {
		return err
	}
	if cfg.NRI, err = f.nriFlags.parse(); err != nil {
		return err
	}
	cfg.OCIRuntime, cfg.Keeper = f.ociRuntime, f.keeper
	cfg.SystemdCgroups, cfg.NoSELinux = f.systemd, !f.selinux
	if cfg.CheckNetwork, err = orNever(f.checkNetwork); err != nil {
		return err
	}
	if f.gpus < 0 {
		return fault.Invalid.Errorf("--gpus %d: want the number of GPUs to simulate, or 0 for none", f.gpus)
	}
	cfg.GPUs = f.gpus
	if f.gpus == 0 {
		cfg.GPUs = -1
	}
	for _, name := range f.without {
		switch name {
		case "gpu":
			cfg.Without.GPU = true
		case "csi-hostpath":
			cfg.Without.Hostpath = true
		default:
			return fault.Invalid.Errorf("--without %q: want gpu or csi-hostpath", name)
		}
	}
	if cfg.Plugins, err = f.parsePlugins(); err != nil {
		return err
	}
	if f.runtimeEndpoint != "" {
		if err := f.refuseForeign(cfg); err != nil {
			return err
		}
	}
	cfg.Images, cfg.PinnedImages = append(cfg.Images, f.images...), f.pinned
	cfg.HostsDir, err = hostsDir(f.hostsDir)
	return err
}

// parsePlugins returns the plugins that the node starts, with their arguments.
func (f *partFlags) parsePlugins() (plugins []node.Plugin, err error) {
	if len(f.pluginArgs) > len(f.plugins) {
		return nil, fault.Invalid.Errorf("there are more --plugin-args than --plugin: give all arguments of a plugin in one --plugin-args")
	}
	for i, value := range f.plugins {
		p, err := node.ParsePlugin(value)
		if err != nil {
			return nil, err
		}
		if err := checkProgram(p.Path); err != nil {
			if program, _, has := strings.Cut(value, " "); has && errors.Is(err, fault.NotFound) {
				err = fmt.Errorf("%w: give only %q here, and its arguments with --plugin-args", err, program)
			}
			return nil, fault.Invalid.Errorf("--plugin %q: %w", value, err)
		}
		if i < len(f.pluginArgs) {
			if p.Args, err = words(f.pluginArgs[i]); err != nil {
				return nil, err
			}
		}
		plugins = append(plugins, p)
	}
	return plugins, nil
}

// refuseForeign rejects settings that are only for the reference runtime.
func (f *partFlags) refuseForeign(cfg *node.Config) error {
	if len(f.images) > 0 {
		return fault.Invalid.Errorf("--image-archive is for the reference runtime, but --runtime-endpoint selects another: "+
			"load the images with its own tool, for example with \"ctr --namespace k8s.io images import %s\"", f.images[0])
	}
	if len(f.pinned) > 0 || f.hostsDir != "" {
		return fault.Invalid.Errorf("--pin-image and --hosts-dir are for the reference runtime, but --runtime-endpoint selects another: configure them there")
	}
	if cfg.BlockIOClasses != "" || len(cfg.RDTClasses) > 0 {
		return fault.Invalid.Errorf("--blockio-config-file and --rdt-class are for the reference runtime, but --runtime-endpoint selects another: configure them there")
	}
	if !f.selinux {
		return fault.Invalid.Errorf("--selinux=false is for the reference runtime, but --runtime-endpoint selects another: configure it there")
	}
	if cfg.CNIConfDir != "" {
		return fault.Invalid.Errorf("--cni-conf-dir is for the reference runtime, but --runtime-endpoint selects another: configure its network there")
	}
	if len(f.timeouts.values) > 0 {
		return fault.Invalid.Errorf("--cni-timeout is for the reference runtime, but --runtime-endpoint selects another: configure it there")
	}
	if f.Socket != "" || f.PluginDir != "" {
		return fault.Invalid.Errorf("--nri-socket and --nri-plugins are for the reference runtime, but --runtime-endpoint selects another: configure NRI there")
	}
	return nil
}

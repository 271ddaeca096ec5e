package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/hostpath"
	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/deviceplugin/gpu"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/systemd"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a single reference plugin, for a kubelet, crictl or a conformance suite",
	}
	cmd.AddCommand(newServeRuntimeCommand(), newServeHostpathCommand(), newServeGPUCommand(), newServeCNICommand())
	return cmd
}

func newServeRuntimeCommand() *cobra.Command {
	var v verbosity
	var cfg node.RuntimeConfig
	var more handlerFlags
	var offered classFlags
	var plugins nriFlags
	var timeouts timeoutFlags
	var selinux bool
	cmd := &cobra.Command{
		Use:   "runtime --endpoint unix:///run/nodekit/cri.sock --root DIR",
		Short: "Serve the reference CRI runtime",
		Long: `Serve the reference CRI runtime until it is interrupted. Its containers keep running when
it ends, and the next one with the same --root takes them over.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return fault.FailedPrecondition.Errorf("a CRI runtime needs root privileges: run it as root: sudo nodekit serve runtime ...")
			}
			cfg.Logger, cfg.NoSELinux = v.logger(slog.LevelInfo), !selinux
			if err := errors.Join(ownDirs(&cfg.Root, &cfg.Run), absolute(&cfg.CNIConfDir)); err != nil {
				return err
			}
			var err error
			if cfg.CheckNetwork, err = orNever(cfg.CheckNetwork); err != nil {
				return err
			}
			if cfg.Handlers, cfg.CDIDirs, err = more.parse(); err != nil {
				return err
			}
			if cfg.NRI, err = plugins.parse(); err != nil {
				return err
			}
			if cfg.BlockIOClasses, cfg.RDTClasses, err = offered.parse(); err != nil {
				return err
			}
			if cfg.HostsDir, err = hostsDir(cfg.HostsDir); err != nil {
				return err
			}
			if err := completeNetwork(&cfg, &timeouts); err != nil {
				return err
			}
			return serveRuntime(cmd.Context(), cfg)
		},
	}
	v.addTo(cmd)
	fs := cmd.Flags()
	fs.StringVar(&cfg.Endpoint, "endpoint", "unix://"+filepath.Join(defaultRun, "cri.sock"), "`socket` to serve on")
	fs.StringVar(&cfg.Root, "root", defaultRoot, "`directory` for images and containers")
	fs.StringVar(&cfg.Run, "run", defaultRun, "`directory` for the keeper's socket and the namespaces")
	fs.StringVar(&cfg.OCIRuntime, "oci-runtime", "", "OCI `runtime`: crun, runc or a path; by default the first of crun and runc that works")
	more.addTo(cmd)
	offered.addTo(cmd)
	plugins.addTo(cmd)
	addCgroupDriver(cmd, &cfg.SystemdCgroups)
	addSELinux(cmd, &selinux)
	addNetworkFlags(cmd, &cfg, &timeouts)
	addImageFlags(cmd, &cfg.Images, &cfg.PinnedImages, &cfg.HostsDir)
	addCheckNetwork(cmd, &cfg.CheckNetwork)
	fs.BoolVar(&cfg.Ephemeral, "ephemeral", false, "at the end, remove all Pods and everything else that the runtime has set up")
	fs.StringVar(&cfg.Keeper, "keeper", "", "the keeper `program`; by default the one beside nodekit, or else in PATH")
	return cmd
}

func addNetworkFlags(cmd *cobra.Command, cfg *node.RuntimeConfig, timeouts *timeoutFlags) {
	cmd.Flags().StringVar(&cfg.CNIConfDir, "cni-conf-dir", "", "`directory` of CNI configurations; by default the runtime sets up its own bridge")
	addCNIBinDir(cmd, &cfg.CNIBinDirs)
	timeouts.addTo(cmd)
	addCNIImportCache(cmd, &cfg.CNIImportCache)
}

// completeNetwork derives the runtime's settings from the network flags.
func completeNetwork(cfg *node.RuntimeConfig, timeouts *timeoutFlags) (err error) {
	if cfg.CNIBinDirs, err = binDirs(cfg.CNIBinDirs); err != nil {
		return err
	}
	if cfg.CNITimeout, cfg.CNITimeouts, err = timeouts.parse(); err != nil {
		return err
	}
	return completeImportCache(&cfg.CNIImportCache, cfg.CNIConfDir)
}

func serveRuntime(ctx context.Context, cfg node.RuntimeConfig) error {
	service, err := takeNotifier(cfg.Logger)
	if err != nil {
		return err
	}
	cfg.Ready = func() { service.tell(systemd.Ready) }
	defer context.AfterFunc(ctx, func() { service.tell(systemd.Stopping) })()
	return node.ServeRuntime(ctx, cfg)
}

func newServeHostpathCommand() *cobra.Command {
	var v verbosity
	var endpoint, registry string
	var cfg hostpath.Config
	cmd := &cobra.Command{
		Use:   "csi-hostpath --endpoint unix:///tmp/csi.sock --node-id N --state-dir DIR",
		Short: "Serve the hostpath CSI driver",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = v.logger(slog.LevelInfo)
			if err := absolute(&cfg.StateDir, &registry); err != nil {
				return err
			}
			driver, err := hostpath.New(cfg)
			if err != nil {
				return err
			}
			return csi.Serve(cmd.Context(), endpoint, driver, &csi.Options{Registry: registry, Logger: cfg.Logger})
		},
	}
	v.addTo(cmd)
	fs := cmd.Flags()
	fs.StringVar(&endpoint, "endpoint", "", "`socket` to serve on (required)")
	fs.StringVar(&cfg.NodeID, "node-id", "", "`ID` of the node (required)")
	fs.StringVar(&cfg.StateDir, "state-dir", "", "`directory` for the volumes (required)")
	fs.StringVar(&cfg.Name, "name", "", "`name` of the driver (default hostpath.csi.nodekit.dev)")
	fs.StringVar(&registry, "registry", "", "the kubelet's plugins_registry `directory`, to register with the kubelet; by default the driver does not register")
	requireFlags(cmd, "endpoint", "node-id", "state-dir")
	return cmd
}

func newServeGPUCommand() *cobra.Command {
	var v verbosity
	var kubeletDir, config string
	cmd := &cobra.Command{
		Use:   "gpu --kubelet-dir DIR --config FILE",
		Short: "Serve the GPU device plugin",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg gpu.Config
			if config != "" {
				var err error
				if cfg, err = gpu.LoadConfig(config); err != nil {
					return err
				}
			}
			cfg.Logger = v.logger(slog.LevelInfo)
			plugin, err := gpu.New(cfg)
			if err != nil {
				return err
			}
			return deviceplugin.Serve(cmd.Context(), plugin, &deviceplugin.Options{KubeletDir: kubeletDir, Logger: cfg.Logger})
		},
	}
	v.addTo(cmd)
	cmd.Flags().StringVar(&kubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's `directory`")
	cmd.Flags().StringVar(&config, "config", "", "YAML `file` that selects the GPUs to offer; by default all of the machine")
	return cmd
}

func requireFlags(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err) // a programmer's error: the flag does not exist
		}
	}
}

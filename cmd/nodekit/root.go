package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"
)

// The default locations of a node.
const (
	defaultRoot = "/var/lib/nodekit"
	defaultRun  = "/run/nodekit"
	// defaultManifests is the manifest directory of a node that runs as a service.
	defaultManifests = "/etc/nodekit/manifests"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "nodekit",
		Short: "Build, run and test Kubernetes node plugins",
		Long: `nodekit is a kit for CNI plugins, CSI drivers, device plugins and CRI runtimes.

Run a Pod on a temporary node:               nodekit run examples/pod.yaml
Run it with the plugin that you are writing: nodekit run --plugin ./my-driver pod.yaml
Test a plugin against its specification:     nodekit conform cni ./my-plugin
Check whether this machine can run a node:   nodekit doctor`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newRunCommand(),
		newNodeCommand(),
		newKubectlCommand(),
		newKubeconfigCommand(),
		newInstallCommand(),
		newUninstallCommand(),
		newResetCommand(),
		newServeCommand(),
		newRecorderCommand(),
		newImageCommand(),
		newConformCommand(),
		newBenchCommand(),
		newDoctorCommand(),
		newVersionCommand(),
	)
	explain(root)
	root.SetFlagErrorFunc(usedWrongly)
	return root
}

// verbosity is the --verbose flag that several commands share.
type verbosity struct{ verbose bool }

func (v *verbosity) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&v.verbose, "verbose", "v", false, "log in detail")
}

// logger returns a logger to standard error with level quiet and above, or everything
// with --verbose.
func (v *verbosity) logger(quiet slog.Level) *slog.Logger {
	level := quiet
	if v.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	logLibraries(log)
	return log
}

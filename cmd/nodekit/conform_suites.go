package main

import (
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/conformance/csisuite"
	"github.com/nodekit-project/nodekit/conformance/devicesuite"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func newConformCNICommand() *cobra.Command {
	var f conformFlags
	cmd := &cobra.Command{
		Use:   "cni BINARY [--profile FILE]",
		Short: "Hold a CNI plugin to the CNI specification",
		Long: `The plugin is executed in network namespaces of the suite's own. A profile declares its
configuration, its state directories and what kind of plugin it is; nodekit conform rules
cni lists all that it may declare:

  facts:
    config: '{"bridge": "test0", "ipam": {"type": "suite-ipam"}}'
    dirs: /var/lib/my-plugin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			profile, err := f.loadProfile()
			if err != nil {
				return err
			}
			suite := cnisuite.Suite()
			if err := suite.CheckProfile(profile); err != nil {
				return err
			}
			target, err := cnisuite.NewTarget(args[0], profile)
			if err != nil {
				return err
			}
			suite.Prepare = cnisuite.Trial
			return conform(cmd, args, &f, suite, target)
		},
	}
	f.addTo(cmd)
	return cmd
}

func newConformCSICommand() *cobra.Command {
	var f conformFlags
	var endpoint, exec string
	cmd := &cobra.Command{
		Use:   "csi --exec COMMAND | --endpoint unix:///...",
		Short: "Hold a CSI driver to the Container Storage Interface",
		Long: `The command is started anew for each rule, with CSI_ENDPOINT, STATE_DIRECTORY and
NODE_ID in its environment; $(CSI_ENDPOINT) and the like in its arguments are replaced.
A driver that runs already is reached at its endpoint; rules that kill it do not apply then.

  nodekit conform csi --exec './my-driver --endpoint $(CSI_ENDPOINT)'`,
		Args: takesExec,
		RunE: func(cmd *cobra.Command, args []string) error {
			command, err := execOrEndpoint(exec, endpoint)
			if err != nil {
				return err
			}
			return conform(cmd, args, &f, csisuite.Suite(), csisuite.Target{Exec: command, Endpoint: endpoint})
		},
	}
	f.addTo(cmd)
	addTargetFlags(cmd, &exec, &endpoint)
	return cmd
}

func newConformDeviceCommand() *cobra.Command {
	var f conformFlags
	var exec string
	cmd := &cobra.Command{
		Use:   "deviceplugin --exec COMMAND",
		Short: "Hold a device plugin to the device plugin API",
		Long: `The suite plays a kubelet for the plugin that the command starts. $(KUBELET_DIR) in the
command is replaced by its directory; without it the plugin finds that directory at
/var/lib/kubelet, in a mount namespace of its own.

  nodekit conform deviceplugin --exec ./my-plugin`,
		Args: takesExec,
		RunE: func(cmd *cobra.Command, args []string) error {
			command, err := commandOf(exec)
			if err != nil {
				return err
			}
			return conform(cmd, args, &f, devicesuite.Suite(), devicesuite.Target{Exec: command})
		},
	}
	f.addTo(cmd)
	cmd.Flags().StringVar(&exec, "exec", "", "the `command` that starts the plugin (required)")
	requireFlags(cmd, "exec")
	return cmd
}

func newConformCRICommand() *cobra.Command {
	var f conformFlags
	var endpoint, exec string
	cmd := &cobra.Command{
		Use:   "cri --exec COMMAND | --endpoint unix:///...",
		Short: "Hold a container runtime to the Container Runtime Interface",
		Long: `The command is started with CONTAINER_RUNTIME_ENDPOINT and STATE_DIRECTORY in its
environment; $(CONTAINER_RUNTIME_ENDPOINT) and the like in its arguments are replaced. A
runtime that runs already is reached at its endpoint; rules that kill it do not apply then.

The images of the rules are served by a registry of the suite's own on 127.0.0.1. A profile
declares what the runtime lacks; nodekit conform rules cri lists all that it may declare:

  facts:
    lacks: imageVolumes, cdi`,
		Args: takesExec,
		RunE: func(cmd *cobra.Command, args []string) error {
			profile, err := f.loadProfile()
			if err != nil {
				return err
			}
			target := crisuite.Target{Endpoint: endpoint}
			if target.Exec, err = execOrEndpoint(exec, endpoint); err != nil {
				return err
			}
			if err := target.Declare(profile); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("looking at what a runtime makes and leaves on the machine needs root: run it as root")
			}
			return conform(cmd, args, &f, crisuite.Suite(), target)
		},
	}
	f.addTo(cmd)
	addTargetFlags(cmd, &exec, &endpoint)
	return cmd
}

func addTargetFlags(cmd *cobra.Command, exec, endpoint *string) {
	cmd.Flags().StringVar(exec, "exec", "", "the `command` that starts what is tested")
	cmd.Flags().StringVar(endpoint, "endpoint", "", "the `socket` of what is tested, when it runs already")
	cmd.MarkFlagsMutuallyExclusive("exec", "endpoint")
	cmd.MarkFlagsOneRequired("exec", "endpoint")
}

// takesExec rejects arguments without a flag.
func takesExec(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fault.Invalid.Errorf("%s takes no arguments: --exec %q starts what is tested", cmd.CommandPath(), strings.Join(args, " "))
}

func execOrEndpoint(exec, endpoint string) ([]string, error) {
	if endpoint != "" {
		return nil, nil
	}
	return commandOf(exec)
}

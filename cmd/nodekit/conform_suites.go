package main

import (
	"errors"
	"fmt"
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
		Short: "Test a CNI plugin against the CNI specification",
		Long: `The suite executes the plugin in network namespaces that it creates. A profile declares
the plugin's configuration, its state directories and what kind of plugin it is; see
"nodekit conform rules cni" for all facts that it may declare:

  facts:
    config: '{"bridge": "test0", "ipam": {"type": "suite-ipam"}}'
    dirs: /var/lib/my-plugin`,
		Args: oneArg("BINARY"),
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
			if err := checkProgram(target.Binary); err != nil {
				return fmt.Errorf("plugin %q: %w", target.Binary, err)
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
		Short: "Test a CSI driver against the CSI specification",
		Long: `The suite starts the command of --exec for each rule, with CSI_ENDPOINT, STATE_DIRECTORY
and NODE_ID in its environment; $(CSI_ENDPOINT) and so on are replaced in its arguments.
A driver that is already running is reached with --endpoint; rules that kill it do not
apply then.

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
		Short: "Test a device plugin against the device plugin API",
		Long: `The suite plays the kubelet for the plugin that the command starts. $(KUBELET_DIR) in the
command is replaced by the kubelet's directory. Without it, the plugin is started in its
own mount namespace, in which that directory is at /var/lib/kubelet.

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
	cmd.Flags().StringVar(&exec, "exec", "", "`command` that starts the plugin (required)")
	requireFlags(cmd, "exec")
	return cmd
}

func newConformCRICommand() *cobra.Command {
	var f conformFlags
	var endpoint, exec string
	cmd := &cobra.Command{
		Use:   "cri --exec COMMAND | --endpoint unix:///...",
		Short: "Test a container runtime against the Container Runtime Interface",
		Long: `The suite starts the command of --exec with CONTAINER_RUNTIME_ENDPOINT and STATE_DIRECTORY
in its environment; $(CONTAINER_RUNTIME_ENDPOINT) and so on are replaced in its arguments.
A runtime that is already running is reached with --endpoint; rules that kill it do not
apply then.

The suite serves the images that it needs from its own registry on 127.0.0.1. A profile
declares what the runtime lacks; see "nodekit conform rules cri" for all facts that it may
declare:

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
				return errors.New("the CRI suite inspects what a runtime creates on the machine, which needs root: run it as root")
			}
			return conform(cmd, args, &f, crisuite.Suite(), target)
		},
	}
	f.addTo(cmd)
	addTargetFlags(cmd, &exec, &endpoint)
	return cmd
}

func addTargetFlags(cmd *cobra.Command, exec, endpoint *string) {
	cmd.Flags().StringVar(exec, "exec", "", "`command` that starts what is tested")
	cmd.Flags().StringVar(endpoint, "endpoint", "", "`socket` of what is tested, if it is already running")
	cmd.MarkFlagsMutuallyExclusive("exec", "endpoint")
	cmd.MarkFlagsOneRequired("exec", "endpoint")
}

// takesExec rejects arguments without a flag.
func takesExec(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fault.Invalid.Errorf("%s takes no arguments: give the command with --exec %q", cmd.CommandPath(), strings.Join(args, " "))
}

func execOrEndpoint(exec, endpoint string) ([]string, error) {
	if endpoint != "" {
		return nil, nil
	}
	return commandOf(exec)
}

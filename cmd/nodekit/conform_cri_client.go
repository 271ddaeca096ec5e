package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func newConformCRIClientCommand() *cobra.Command {
	var f conformFlags
	var exec string
	cmd := &cobra.Command{
		Use:   "cri-client --exec COMMAND [--profile FILE]",
		Short: "Test a kubelet against the client's side of the Container Runtime Interface",
		Long: `The suite gives the kubelet a container runtime that records each call, and a directory of
Pod manifests. The command of --exec starts the kubelet, with CONTAINER_RUNTIME_ENDPOINT,
MANIFEST_DIRECTORY and STATE_DIRECTORY in its environment; $(MANIFEST_DIRECTORY) and so on
are replaced in its arguments. Rules that kill the kubelet or the runtime get a kubelet of
their own; all others share one.

  nodekit conform cri-client --exec 'nodekit node --runtime-endpoint $(CONTAINER_RUNTIME_ENDPOINT)
    --manifests $(MANIFEST_DIRECTORY) --root $(STATE_DIRECTORY)/root --run $(STATE_DIRECTORY)/run'

A profile may name the command instead, a command to run before it, such as to write its
configuration, and one to run after it, to clean up. It also declares what the kubelet
lacks; see "nodekit conform rules cri-client" for all facts that it may declare:

  facts:
    exec: my-kubelet --config $(STATE_DIRECTORY)/config.yaml
    setup: echo "staticPodPath: $(MANIFEST_DIRECTORY)" >$(STATE_DIRECTORY)/config.yaml
    lacks: runtimeClasses, stopSignals`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := criClientTarget(&f, exec)
			if err != nil {
				return err
			}
			return conform(cmd, args, &f, criclientsuite.Suite(), target)
		},
	}
	f.addTo(cmd)
	cmd.Flags().StringVar(&exec, "exec", "", "`command` that starts the kubelet; by default that of the profile")
	return cmd
}

func criClientTarget(f *conformFlags, exec string) (target criclientsuite.Target, err error) {
	profile, err := f.loadProfile()
	if err != nil {
		return target, err
	}
	if exec == "" {
		exec, _ = profile.Fact("exec")
	}
	command := criclientsuite.CommandOf(profile)
	if strings.TrimSpace(exec) == "" {
		return target, fault.Invalid.Errorf("there is no command that starts the kubelet: give one with --exec, or as the fact exec in a profile")
	}
	if command.Exec, err = commandOf(exec); err != nil {
		return target, err
	}
	target.Start = command.Start
	return target, target.Declare(profile)
}

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
		Short: "Hold a kubelet to the client's side of the Container Runtime Interface",
		Long: `The suite gives the kubelet a runtime that records what it is asked, and a directory of Pod
manifests. The command starts the kubelet, with CONTAINER_RUNTIME_ENDPOINT,
MANIFEST_DIRECTORY and STATE_DIRECTORY in its environment; $(MANIFEST_DIRECTORY) and the
like in its arguments are replaced. It is started once for the rules that harm nobody, and
anew for each rule that kills it or the runtime.

  nodekit conform cri-client --exec 'nodekit node --runtime-endpoint $(CONTAINER_RUNTIME_ENDPOINT)
    --manifests $(MANIFEST_DIRECTORY) --root $(STATE_DIRECTORY)/root --run $(STATE_DIRECTORY)/run'

A profile may name the command instead, and one that is run before it, to write its
configuration, or after it, to take down what it leaves. It declares what the kubelet
lacks; nodekit conform rules cri-client lists all that it may declare:

  facts:
    exec: my-kubelet --config $(STATE_DIRECTORY)/config.yaml
    setup: echo "staticPodPath: $(MANIFEST_DIRECTORY)" >$(STATE_DIRECTORY)/config.yaml
    lacks: runtimeClasses, stopSignals`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := criClientTarget(&f, exec)
			if err != nil {
				return err
			}
			return conform(cmd, args, &f, criclientsuite.Suite(), target)
		},
	}
	f.addTo(cmd)
	cmd.Flags().StringVar(&exec, "exec", "", "the `command` that starts the kubelet; empty takes that of the profile")
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
		return target, fault.Invalid.Errorf("there is no command that starts the kubelet: give it with --exec, or as the fact exec of a profile")
	}
	if command.Exec, err = commandOf(exec); err != nil {
		return target, err
	}
	target.Start = command.Start
	return target, target.Declare(profile)
}

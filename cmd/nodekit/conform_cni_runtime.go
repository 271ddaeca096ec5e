package main

import (
	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/conformance/cniruntimesuite"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func newConformCNIRuntimeCommand() *cobra.Command {
	var f conformFlags
	var verbs cniruntimesuite.Commands
	var exec string
	cmd := &cobra.Command{
		Use:   "cni-runtime --exec COMMAND | --add COMMAND --del COMMAND",
		Short: "Test a container runtime against its side of the CNI specification",
		Long: `The suite configures the runtime with a network of CNI plugins that record each call, and
drives it in one of two ways.

For a CRI runtime, the suite starts the command of --exec for each rule, with
CONTAINER_RUNTIME_ENDPOINT, STATE_DIRECTORY, CNI_CONF_DIR and CNI_BIN_DIR in its
environment; $(CNI_CONF_DIR) and so on are replaced in its arguments. It then repeats the
command of --ready, if there is one, until that succeeds:

  nodekit conform cni-runtime --exec 'nodekit serve runtime --ephemeral
    --endpoint $(CONTAINER_RUNTIME_ENDPOINT) --root $(STATE_DIRECTORY)/root
    --run $(STATE_DIRECTORY)/run --cni-conf-dir $(CNI_CONF_DIR) --cni-bin-dir $(CNI_BIN_DIR)'

Any other runtime is driven by one command for each CNI operation that it supports, which
/bin/sh runs. These variables describe the container: $ID, $NETNS, $IFNAME, $CNI_ARGS and
$CAP_ARGS (JSON; with port mappings if --ports is given). $CONF_DIR, $BIN_DIR and $STATE_DIR
are directories, and $VALID_ATTACHMENTS (JSON) is what --gc must keep:

  nodekit conform cni-runtime \
    --add 'CNI_PATH=$BIN_DIR NETCONFPATH=$CONF_DIR CNI_IFNAME=$IFNAME cnitool add suite-net $NETNS' \
    --del 'CNI_PATH=$BIN_DIR NETCONFPATH=$CONF_DIR CNI_IFNAME=$IFNAME cnitool del suite-net $NETNS'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := cniRuntimeTarget(exec, verbs)
			if err != nil {
				return err
			}
			return conform(cmd, args, &f, cniruntimesuite.Suite(), target)
		},
	}
	f.addTo(cmd)
	fs := cmd.Flags()
	fs.StringVar(&exec, "exec", "", "`command` that starts a CRI runtime")
	fs.StringVar(&verbs.Add, "add", "", "`command` that connects a container to the network (ADD)")
	fs.StringVar(&verbs.Del, "del", "", "`command` that disconnects a container (DEL)")
	fs.StringVar(&verbs.Check, "check", "", "`command` that checks a container's network (CHECK)")
	fs.StringVar(&verbs.GC, "gc", "", "`command` that collects garbage (GC)")
	fs.StringVar(&verbs.Status, "status", "", "`command` that fails if the network is not ready (STATUS)")
	fs.StringVar(&verbs.Serve, "serve", "", "`command` that starts the daemon that the other commands talk to")
	fs.StringVar(&verbs.Ready, "ready", "", "`command` that succeeds once the runtime is ready")
	fs.BoolVar(&verbs.OwnNetNS, "own-netns", false, "the commands create the network namespaces of containers; $NETNS is empty")
	fs.BoolVar(&verbs.Ports, "ports", false, "the command of --add passes $CAP_ARGS to the plugins")
	for _, other := range []string{"add", "del", "check", "gc", "status", "serve", "own-netns", "ports"} {
		cmd.MarkFlagsMutuallyExclusive("exec", other)
	}
	cmd.MarkFlagsOneRequired("exec", "add")
	cmd.MarkFlagsRequiredTogether("add", "del")
	return cmd
}

func cniRuntimeTarget(exec string, verbs cniruntimesuite.Commands) (cniruntimesuite.Target, error) {
	if exec == "" {
		if verbs.Add == "" || verbs.Del == "" {
			return cniruntimesuite.Target{}, fault.Invalid.Errorf("--add and --del must not be empty")
		}
		if verbs.Ready != "" && verbs.Serve == "" {
			return cniruntimesuite.Target{}, fault.Invalid.Errorf("--ready is only used with --serve or --exec")
		}
		return verbs.Target(), nil
	}
	command, err := commandOf(exec)
	if err != nil {
		return cniruntimesuite.Target{}, err
	}
	door := criDoor{command: command, ready: verbs.Ready}
	return cniruntimesuite.Target{Open: door.open, OwnNetNS: true, Ports: true}, nil
}

// newRecorderCommand returns the command that implements the plugins of that suite.
func newRecorderCommand() *cobra.Command {
	return &cobra.Command{
		Use: cniruntimesuite.RecorderArg, Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if code := cniruntimesuite.Record(args[0], args[1]); code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}

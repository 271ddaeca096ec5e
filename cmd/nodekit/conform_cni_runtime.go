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
		Short: "Hold a container runtime to the runtime's side of the CNI specification",
		Long: `The suite gives the runtime a network of plugins that record what they are called with,
and drives it in one of two ways.

A CRI runtime is started by --exec anew for each rule, with CONTAINER_RUNTIME_ENDPOINT,
STATE_DIRECTORY, CNI_CONF_DIR and CNI_BIN_DIR in its environment; $(CNI_CONF_DIR) and the
like in its arguments are replaced. --ready is repeated after that until it succeeds:

  nodekit conform cni-runtime --exec 'nodekit serve runtime --ephemeral
    --endpoint $(CONTAINER_RUNTIME_ENDPOINT) --root $(STATE_DIRECTORY)/root
    --run $(STATE_DIRECTORY)/run --cni-conf-dir $(CNI_CONF_DIR) --cni-bin-dir $(CNI_BIN_DIR)'

Any other runtime is driven by a command for each verb that it has. They are run by
/bin/sh and find the container in $ID, $NETNS, $IFNAME, $CNI_ARGS and $CAP_ARGS (JSON, with
port mappings if --ports says that plugins get them from there), the directories in $CONF_DIR, $BIN_DIR and $STATE_DIR, and for --gc what to keep in
$VALID_ATTACHMENTS (JSON):

  nodekit conform cni-runtime \
    --add 'CNI_PATH=$BIN_DIR NETCONFPATH=$CONF_DIR CNI_IFNAME=$IFNAME cnitool add suite-net $NETNS' \
    --del 'CNI_PATH=$BIN_DIR NETCONFPATH=$CONF_DIR CNI_IFNAME=$IFNAME cnitool del suite-net $NETNS'`,
		Args: cobra.NoArgs,
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
	fs.StringVar(&exec, "exec", "", "the `command` that starts a CRI runtime")
	fs.StringVar(&verbs.Add, "add", "", "the `command` that connects a container")
	fs.StringVar(&verbs.Del, "del", "", "the `command` that disconnects it")
	fs.StringVar(&verbs.Check, "check", "", "the `command` that checks it")
	fs.StringVar(&verbs.GC, "gc", "", "the `command` that collects garbage")
	fs.StringVar(&verbs.Status, "status", "", "the `command` that fails when the network is not ready")
	fs.StringVar(&verbs.Serve, "serve", "", "a `command` that runs as long as the runtime does, for the others to reach")
	fs.StringVar(&verbs.Ready, "ready", "", "a `command` that succeeds once the runtime is ready")
	fs.BoolVar(&verbs.OwnNetNS, "own-netns", false, "the commands make containers' network namespaces, and $NETNS is empty")
	fs.BoolVar(&verbs.Ports, "ports", false, "the command of --add hands $CAP_ARGS to the plugins")
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
			return cniruntimesuite.Target{}, fault.Invalid.Errorf("--ready is for a runtime that --serve or --exec starts, and there is none")
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

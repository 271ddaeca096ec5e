package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

func newKubeconfigCommand() *cobra.Command {
	run := defaultRun
	cmd := &cobra.Command{
		Use:   "kubeconfig [--run DIR]",
		Short: "Print the path of a node's kubeconfig",
		Long: `Print the path of the kubeconfig of a running node, for kubectl, client-go and other
clients of the Kubernetes API:

  export KUBECONFIG=$(nodekit kubeconfig)`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := kubeconfig(run)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	cmd.Flags().StringVar(&run, "run", run, "the node's run `directory`")
	return cmd
}

// kubeconfig returns the path of the kubeconfig of the node with the given run
// directory.
func kubeconfig(run string) (string, error) {
	if err := absolute(&run); err != nil {
		return "", err
	}
	path := node.Kubeconfig(run)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrPermission) {
		return "", fault.PermissionDenied.Errorf("%w: only root may read it: run it with sudo", err)
	}
	if err != nil {
		return "", fault.NotFound.Errorf("no node uses the run directory %q: start one with \"nodekit node\", or name its run directory with --run", run)
	}
	return path, f.Close()
}

func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--run DIR] ARGUMENTS...",
		Short: "Run the bundled kubectl against a node",
		Long: `Run the bundled kubectl against a node. --run, the node's run directory, must come first;
everything after it is passed to kubectl:

  nodekit kubectl --run /run/nodekit get pods -A`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			run, rest, err := splitRun(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 && slices.Contains([]string{"-h", "--help"}, rest[0]) && run == "" {
				return cmd.Help()
			}
			if run == "" {
				run = defaultRun
			}
			path, err := kubeconfig(run)
			if err != nil {
				return err
			}
			return execKubectl(path, rest)
		},
	}
}

// splitRun removes --run DIR or --run=DIR from the front. Elsewhere it is rejected:
// kubectl has no such flag, and the arguments after -- are for a program in a
// container.
func splitRun(args []string) (run string, rest []string, err error) {
	isRun := func(a string) bool { return a == "--run" || strings.HasPrefix(a, "--run=") }
	rest = args
	if len(args) > 0 && isRun(args[0]) {
		_, value, attached := strings.Cut(args[0], "=")
		run, rest = value, args[1:]
		if !attached && len(rest) > 0 {
			run, rest = rest[0], rest[1:]
		}
		if run == "" {
			return "", nil, fault.Invalid.Errorf("--run needs the run directory of a node: nodekit kubectl --run DIR ARGUMENTS...")
		}
	}
	i := slices.IndexFunc(rest, func(a string) bool { return a == "--" || isRun(a) })
	if i >= 0 && rest[i] != "--" {
		return "", nil, fault.Invalid.Errorf("--run must come first: nodekit kubectl --run DIR ARGUMENTS...")
	}
	return run, rest, nil
}

// execKubectl replaces this process with the kubectl beside this program. KUBECONFIG
// names the node; a --kubeconfig argument takes precedence.
func execKubectl(kubeconfig string, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(self), "kubectl")
	if _, err := os.Stat(program); err != nil {
		return fault.NotFound.Errorf("the program %q is missing: put the one that \"make build\" builds beside nodekit, or use your own kubectl with KUBECONFIG=%s",
			program, kubeconfig)
	}
	env := append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KUBECONFIG=") }), "KUBECONFIG="+kubeconfig)
	return unix.Exec(program, append([]string{"kubectl"}, args...), env)
}

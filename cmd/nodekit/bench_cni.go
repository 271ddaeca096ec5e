package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/cnibench"
)

func newBenchCNICommand(f *benchFlags) *cobra.Command {
	o := cnibench.Options{}
	var inside bool
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "Measure the CNI plugins, compared with upstream's",
		Long: `Bench cni calls nodekit's CNI plugins in every way in which a container runtime can,
alternating with upstream's, which "make upstream" builds, and measures the least time that
the machine needs. It works in its own namespaces, so that nothing is left however it ends.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Rounds = f.rounds
			o.Out = cmd.OutOrStdout()
			if f.progress {
				o.Progress = cmd.ErrOrStderr()
			}
			if !inside {
				err := cnibench.Isolate(cmd.Context(), append(os.Args[1:], "--inside"), o.Data)
				var exit *exec.ExitError
				if errors.As(err, &exit) && exit.Exited() {
					return exitCode(exit.ExitCode()) // it has said why
				}
				return err
			}
			return cnibench.Run(cmd.Context(), &o)
		},
	}
	fs := cmd.Flags()
	bin := besideMe()
	fs.StringVar(&o.CNI, "cni", filepath.Join(bin, "cni"), "`executable` of nodekit's CNI plugins")
	fs.StringVar(&o.Shim, "shim", filepath.Join(bin, "cni-shim"), "`executable` of cni-shim")
	fs.StringVar(&o.Upstream, "upstream", filepath.Join(bin, "upstream"), "`directory` of upstream's plugins; if it does not exist, only nodekit's are measured")
	fs.StringVar(&o.Data, "data", "", "`directory` for address reservations, which is created and removed; by default in memory")
	fs.StringSliceVar(&o.Only, "only", nil, "measure only these `tables`: "+cnibench.Names())
	fs.BoolVar(&inside, "inside", false, "")
	if err := fs.MarkHidden("inside"); err != nil {
		panic(err) // the flag is above
	}
	return cmd
}

// besideMe returns the directory of this executable.
func besideMe() string {
	self, err := os.Executable()
	if err != nil {
		return "."
	}
	return filepath.Dir(self)
}

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
		Short: "Measure the CNI plugins beside upstream's",
		Long: `Bench cni calls the CNI plugins that come with nodekit in every way in which a runtime can,
in turn with upstream's (make upstream builds those), and what the machine asks for at
least. All of it happens in namespaces of its own, so that nothing is left however it ends.`,
		Args: cobra.NoArgs,
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
	fs.StringVar(&o.CNI, "cni", filepath.Join(bin, "cni"), "nodekit's CNI plugins, an `executable`")
	fs.StringVar(&o.Shim, "shim", filepath.Join(bin, "cni-shim"), "nodekit's thin plugin before a daemon, an `executable`")
	fs.StringVar(&o.Upstream, "upstream", filepath.Join(bin, "upstream"), "the `directory` of upstream's plugins; without it ours are measured alone")
	fs.StringVar(&o.Data, "data", "", "the `directory` where reservations are kept, which is made and removed; by default one in memory")
	fs.StringSliceVar(&o.Only, "only", nil, "only these tables: "+cnibench.Names())
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

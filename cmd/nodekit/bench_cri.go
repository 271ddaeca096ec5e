package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/cribench"
	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/isolate"
)

func newBenchCRICommand(f *benchFlags) *cobra.Command {
	o := cribench.Options{}
	var inside bool
	cmd := &cobra.Command{
		Use:   "cri",
		Short: "Measure the CRI runtime beside containerd",
		Long: `Bench cri calls the reference runtime, on crun and on runc, and in turn with it the
containerd that is installed, as a kubelet does. All of it happens in namespaces of its
own. With --against it calls a runtime that runs already, too:

  nodekit bench cri --against mine=unix:///run/mine.sock --image mine/podtool:v1

On a host with both versions of cgroups it mounts the hugetlb controller for the time
if a side runs on crun, which refuses to work there otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !inside {
				err := isolate.Run(cmd.Context(), append(os.Args[1:], "--inside"), true)
				var exit *exec.ExitError
				if errors.As(err, &exit) && exit.Exited() {
					return exitCode(exit.ExitCode()) // it has said why
				}
				return err
			}
			first, err := isolate.Init(cmd.Context())
			var code isolate.Exit
			if errors.As(err, &code) {
				return exitCode(code)
			}
			if first || err != nil {
				return err
			}
			o.Rounds, o.Image, o.Out = f.rounds, f.image, cmd.OutOrStdout()
			if f.progress {
				o.Progress = cmd.ErrOrStderr()
			}
			return cribench.Run(cmd.Context(), &o)
		},
	}
	fs := cmd.Flags()
	bin := besideMe()
	o.Nodekit = filepath.Join(bin, "nodekit")
	fs.StringVar(&o.Podtool, "podtool", filepath.Join(bin, "podtool"), "the containers' static `program`")
	fs.StringVar(&o.CNI, "cni", filepath.Join(bin, "upstream"), "the `directory` of containerd's CNI plugins (make upstream builds those)")
	fs.StringSliceVar(&o.Endpoint, "against", nil, "also measure the runtime at this socket, as `NAME[@HANDLER]=ENDPOINT`")
	fs.IntVar(&o.Pods, "pods", 100, "how many Pods come at once")
	fs.StringSliceVar(&o.Only, "only", nil, "only these tables: "+cribench.Names())
	fs.StringArrayVar(&o.Sides, "sides", nil, "only sides whose names begin so, as nodekit or \"containerd, runc\"")
	fs.BoolVar(&inside, "inside", false, "")
	if err := fs.MarkHidden("inside"); err != nil {
		panic(err) // the flag is above
	}
	return cmd
}

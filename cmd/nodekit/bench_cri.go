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
		Short: "Measure the CRI runtime, compared with containerd",
		Long: `Bench cri calls the reference runtime, with crun and with runc, as a kubelet does,
alternating with the installed containerd. It works in its own namespaces. With --against
it also calls a runtime that is already running:

  nodekit bench cri --against mine=unix:///run/mine.sock --image mine/podtool:v1

On a host with both cgroup versions it mounts the hugetlb controller while it runs, because
crun refuses to work there otherwise.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !inside {
				restore := cribench.KeepControllers()
				err := isolate.Run(cmd.Context(), append(os.Args[1:], "--inside"), true)
				if rerr := restore(); rerr != nil {
					return errors.Join(err, rerr)
				}
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
	fs.StringVar(&o.Podtool, "podtool", filepath.Join(bin, "podtool"), "static `program` that the containers run")
	fs.StringVar(&o.CNI, "cni", filepath.Join(bin, "upstream"), "`directory` of CNI plugins for containerd, which \"make upstream\" builds")
	fs.StringSliceVar(&o.Endpoint, "against", nil, "also measure the CRI runtime at this `NAME[@HANDLER]=ENDPOINT`")
	fs.IntVar(&o.Pods, "pods", 100, "`number` of Pods that are created at once")
	fs.StringSliceVar(&o.Only, "only", nil, "measure only these `tables`: "+cribench.Names())
	fs.StringArrayVar(&o.Sides, "sides", nil, "measure only `sides` whose names begin with this, such as nodekit or \"containerd, runc\"")
	fs.BoolVar(&inside, "inside", false, "")
	if err := fs.MarkHidden("inside"); err != nil {
		panic(err) // the flag is above
	}
	return cmd
}

package main

import (
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/loopback"
	"github.com/nodekit-project/nodekit/cni/portmap"
)

func newServeCNICommand() *cobra.Command {
	var v verbosity
	var s cni.Server
	cmd := &cobra.Command{
		Use:   "cni [--socket-dir DIR]",
		Short: "Serve the CNI plugins as a daemon that cni-shim calls",
		Long: `Serve bridge, host-local, portmap and loopback on unix sockets until it is interrupted.
A container runtime executes cni-shim by the names of the plugins, and cni-shim passes
the calls on:

  for name in bridge host-local portmap loopback; do install bin/cni-shim /opt/cni/bin/$name; done`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.Logger = v.logger(slog.LevelInfo)
			if err := absolute(&s.Dir); err != nil {
				return err
			}
			connect, leave := bridge.Resident()
			forward, disconnect := portmap.Resident()
			s.Plugins = []*cni.Plugin{connect, hostlocal.Plugin(), loopback.Plugin(), forward}
			return errors.Join(s.Serve(cmd.Context()), leave(), disconnect())
		},
	}
	v.addTo(cmd)
	cmd.Flags().StringVar(&s.Dir, "socket-dir", cni.DefaultSocketDir, "`directory` of the sockets, one for each plugin")
	return cmd
}

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func newUninstallCommand() *cobra.Command {
	var f unitFlags
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the systemd service of a node, and remove its unit",
		Long: `Uninstall stops and disables the unit that nodekit install wrote, and removes its file.
The node's data are kept and its containers keep running: "nodekit reset" removes both.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.resolve(); err != nil {
				return err
			}
			return f.uninstall(cmd)
		},
	}
	f.addTo(cmd)
	return cmd
}

func (f *unitFlags) uninstall(cmd *cobra.Command) error {
	have, err := f.read()
	if err != nil {
		return err
	}
	if have == nil {
		return fault.NotFound.Errorf("there is no %s: repeat the --name and --unit-dir of nodekit install", f.path())
	}
	known := false
	if cgroup.Systemd() {
		if known, err = f.loaded(cmd.Context()); err != nil {
			return err
		}
	}
	if known {
		if err := systemctl(cmd.Context(), "disable", "--now", f.name); err != nil {
			return err
		}
		// It may have failed before, and systemd would remember that.
		_ = systemctl(cmd.Context(), "reset-failed", f.name)
	}
	err = atomicfile.Remove(f.path())
	if known {
		err = errors.Join(err, systemctl(cmd.Context(), "daemon-reload"))
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is removed; the node's containers keep running: end them with nodekit reset and the node's --root and --run\n", f.path())
	return nil
}

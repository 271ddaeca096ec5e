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
		Short: "Stop a node that systemd runs, and remove its unit",
		Long: `Uninstall stops and disables the unit that nodekit install wrote, and removes its file.
The node's data stay and its containers run on: "nodekit reset" ends them.`,
		Args: cobra.NoArgs,
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
		return fault.NotFound.Errorf("there is no %s: name the unit as nodekit install did, with --name and --unit-dir", f.path())
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
	fmt.Fprintf(cmd.OutOrStdout(), "%s is gone; the node's containers run on, if there are any: end them with nodekit reset, with the node's --root and --run\n", f.path())
	return nil
}

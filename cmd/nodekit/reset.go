package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

func newResetCommand() *cobra.Command {
	var v verbosity
	var cfg node.Config
	var foreign foreignFlags
	cmd := &cobra.Command{
		Use:   "reset --root DIR --run DIR",
		Short: "Remove a stopped node with its Pods and data",
		Long: `Reset ends the Pods of a stopped node, deletes the volumes that were provisioned for them,
and removes the node's network and both directories. It refuses a node that is running,
and directories that are not a node's. If the node used another container runtime or CNI
network, give the same flags.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = v.logger(slog.LevelWarn)
			if err := errors.Join(foreign.apply(&cfg), ownDirs(&cfg.Root, &cfg.Run)); err != nil {
				return err
			}
			return reset(cmd, cfg)
		},
	}
	v.addTo(cmd)
	fs := cmd.Flags()
	fs.StringVar(&cfg.Root, "root", defaultRoot, "the node's `directory` for everything that is kept across restarts")
	fs.StringVar(&cfg.Run, "run", defaultRun, "the node's `directory` for sockets")
	fs.StringVar(&cfg.Keeper, "keeper", "", "the keeper `program`; by default the one beside nodekit, or else in PATH")
	foreign.addTo(cmd)
	return cmd
}

func reset(cmd *cobra.Command, cfg node.Config) error {
	if err := errors.Join(checkOwn(cfg.Root, "--root", rootMarks), checkOwn(cfg.Run, "--run", runMarks)); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.Root); errors.Is(err, os.ErrNotExist) {
		return fault.NotFound.Errorf("there is no node at %q: name its directory with --root", cfg.Root)
	}
	n, err := node.Start(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	if err := n.Destroy(cmd.Context()); err != nil {
		return err
	}
	if err := errors.Join(removeRoot(cfg.Root), mount.RemoveAll(cfg.Run)); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "the node at %s is gone (%s)\n", cfg.Root, n)
	return nil
}

// What a node, or a runtime that is served alone, creates first in its directories, and
// nothing else does.
var (
	rootMarks = []string{"objects.db", "node.json", "cri/lock", "oci/images", "oci/keeper"}
	runMarks  = []string{"kubeconfig", "nodekit.sock", "cri.sock", "oci"}
)

// checkOwn rejects a directory that is not empty and has none of the marks, because
// everything in it would be removed.
func checkOwn(dir, flag string, marks []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Invalid.Errorf("%s: %w", flag, err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "lost+found" })
	for _, mark := range marks {
		if _, err := os.Lstat(filepath.Join(dir, mark)); err == nil {
			return nil
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return fault.Invalid.Errorf("%s %q: it is not a node's directory (it contains %q), and everything in it would be deleted: name the node's directory",
		flag, dir, entries[0].Name())
}

// removeRoot removes a node's directory. If that is a mount of the operator's, it
// removes the contents, except lost+found.
func removeRoot(dir string) error {
	mounted, err := mount.IsMountPoint(dir)
	if err != nil {
		return err
	}
	if !mounted {
		return mount.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != "lost+found" {
			errs = append(errs, mount.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

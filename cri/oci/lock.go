package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// While it saves processes, criu lets nothing into or out of their network namespace,
// by rules of the firewall. One that is killed leaves them, and the Pod is cut off: this
// is how they are taken away.

// lockedFile says that a criu is at work in the sandbox's network namespace, or was
// killed there.
func (r *Runtime) lockedFile(s *cri.Sandbox) string {
	return filepath.Join(r.sandboxDir(s.ID), "criu")
}

// unlockNetwork takes away what a criu has left that did not end by itself.
func (r *Runtime) unlockNetwork(ctx context.Context, s *cri.Sandbox) error {
	if _, err := os.Stat(r.lockedFile(s)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if !hostNetwork(s) { // which criu never locks: it is its own
		err := netns.Do(filepath.Join(r.sandboxDir(s.ID), "net"), func() error {
			return errors.Join(dropChains(ctx, "iptables"), dropChains(ctx, "ip6tables"), dropTables(ctx))
		})
		if err != nil {
			return fmt.Errorf("letting the Pod's network go on: %w", err)
		}
	}
	return os.Remove(r.lockedFile(s))
}

// undoLock takes the rules away that criu's default makes, all or none.
const undoLock = "*filter\n-D INPUT -j CRIU\n-D OUTPUT -j CRIU\n-F CRIU\n-X CRIU\nCOMMIT\n"

// dropChains undoes criu's lock with iptables in the calling thread's namespace. Where
// that is not installed criu cannot have used it.
func dropChains(ctx context.Context, tool string) error {
	if _, err := exec.LookPath(tool + "-restore"); err != nil {
		return nil
	}
	if exec.CommandContext(ctx, tool, "-w", "-S", "CRIU").Run() != nil {
		return nil // there is no such chain
	}
	cmd := exec.CommandContext(ctx, tool+"-restore", "-w", "--noflush")
	cmd.Stdin = strings.NewReader(undoLock)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w", cmd.Args[0], strings.TrimSpace(string(out)), err)
	}
	return nil
}

// dropTables undoes the lock of a criu that was built, or told, to use nftables: a table
// for each run.
func dropTables(ctx context.Context) error {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, "nft", "list", "tables", "inet").Output()
	if err != nil {
		return fmt.Errorf("listing nft tables: %w", err)
	}
	var errs []error
	for line := range strings.Lines(string(out)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "table inet CRIU-")
		if !ok {
			continue
		}
		if out, err := exec.CommandContext(ctx, "nft", "delete", "table", "inet", "CRIU-"+name).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("deleting an nft table: %s: %w", strings.TrimSpace(string(out)), err))
		}
	}
	return errors.Join(errs...)
}

package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// A criu that saves processes freezes them, and lets nothing into or out of their
// network namespace, by rules of the firewall. One that is killed leaves both; and one
// that outlives its server would do both again, behind the back of the next. So each has a
// file, locked by all processes that it consists of: who finds the file ends them first.

// criuGrace is how long a criu may take to end by itself that is not wanted any more. It has
// the container's processes do some of the work, by a few instructions at a time in place of
// their own, and those that it is doing this to when it is killed die of them. A short work is
// done by then, and of a long one nearly all is spent on writing memory, where there is no such
// danger (measured with criu 4.2: of 4 MiB in two containers, one in 20 kills ended one).
const criuGrace = 3 * time.Second

// savingFile says that a criu is at work in the sandbox, or was killed there.
func (r *Runtime) savingFile(sandboxID string) string {
	return filepath.Join(r.sandboxDir(sandboxID), "criu")
}

// beginSave returns the lock to lend to a criu that is about to begin. Once it has ended
// by itself its file is to be removed.
func (r *Runtime) beginSave(ctx context.Context, s *cri.Sandbox) (*flock.Lock, error) {
	if err := r.endSave(ctx, s); err != nil {
		return nil, err
	}
	return flock.Acquire(ctx, r.savingFile(s.ID), flock.Exclusive)
}

// endSave ends a criu that did not end by itself, and lets the network go on. What it has
// frozen is to be thawed after that.
func (r *Runtime) endSave(ctx context.Context, s *cri.Sandbox) error {
	file := r.savingFile(s.ID)
	if err := flock.Evict(ctx, file, criuGrace); err != nil {
		return fmt.Errorf("ending a checkpoint: %w", err)
	}
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := r.unlockNetwork(ctx, s); err != nil {
		return err
	}
	return os.Remove(file)
}

// unlockNetwork lets the Pod's network go on that a killed criu has locked.
func (r *Runtime) unlockNetwork(ctx context.Context, s *cri.Sandbox) error {
	// The host's network criu never locks, for it is its own; and one may be gone.
	net := filepath.Join(r.sandboxDir(s.ID), "net")
	if hostNetwork(s) || !pinned(net) {
		return nil
	}
	err := netns.Do(net, func() error {
		return errors.Join(dropChains(ctx, "iptables"), dropChains(ctx, "ip6tables"), dropTables(ctx))
	})
	if err != nil {
		return fmt.Errorf("letting the Pod's network go on: %w", err)
	}
	return nil
}

// endSaves is endSave for all that a server before this one had begun. The network of a
// sandbox that is not among those given, which is half made or half removed, goes with it.
// What fails is tried again when the sandbox's containers are thawed.
func (r *Runtime) endSaves(ctx context.Context, sandboxes []*cri.Sandbox) {
	entries, err := os.ReadDir(r.sandboxDir(""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.cfg.Logger.ErrorContext(ctx, "looking for checkpoints that a killed server was making", "err", err)
	}
	for _, e := range entries {
		file := r.savingFile(e.Name())
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			continue
		}
		err := flock.Evict(ctx, file, criuGrace)
		for _, s := range sandboxes {
			if file == r.savingFile(s.ID) {
				err = r.endSave(ctx, s)
			}
		}
		if err != nil {
			r.cfg.Logger.ErrorContext(ctx, "ending a checkpoint that a killed server was making", "file", file, "err", err)
		}
	}
}

// forgetCheckpoints removes what is left of them, which may be all of a container's memory.
func (r *Runtime) forgetCheckpoints(ctx context.Context, containers []*cri.Container) {
	for _, c := range containers {
		if err := os.RemoveAll(checkpointDir(c)); err != nil { // the next one, or the container's removal, does it
			r.cfg.Logger.WarnContext(ctx, "removing a checkpoint that a killed server was making", "container", c.ID, "err", err)
		}
	}
}

// undoLock is what takes the rules away, and the chain, that criu's default makes, "" where
// there are none. A criu that was killed while it took them away itself has left some.
func undoLock(list string) string {
	lines := strings.Split(list, "\n")
	if !slices.Contains(lines, "-N CRIU") {
		return ""
	}
	undo := "*filter\n"
	for _, l := range lines {
		if rule, ok := strings.CutPrefix(l, "-A "); ok && strings.HasSuffix(rule, " -j CRIU") {
			undo += "-D " + rule + "\n"
		}
	}
	return undo + "-F CRIU\n-X CRIU\nCOMMIT\n"
}

// dropChains undoes criu's lock with iptables in the calling thread's namespace. Where
// that is not installed, or the kernel has not what it needs, criu cannot have used it.
func dropChains(ctx context.Context, tool string) error {
	if _, err := exec.LookPath(tool + "-restore"); err != nil {
		return nil
	}
	// Of a chain that is not there iptables-nft 1.8.9 says that it is incompatible: all are
	// asked for.
	list, err := exec.CommandContext(ctx, tool, "-w", "-S").Output()
	if err != nil {
		return unlessUnable(fmt.Errorf("%s -S: %s: %w", tool, complaintOf(err), err))
	}
	undo := undoLock(string(list))
	if undo == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, tool+"-restore", "-w", "--noflush")
	cmd.Stdin = strings.NewReader(undo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w", cmd.Args[0], strings.TrimSpace(string(out)), err)
	}
	return nil
}

// unlessUnable is nil for what iptables and nft say that the kernel has not: legacy
// tables, which are a module, IPv6, and nf_tables.
func unlessUnable(err error) error {
	for _, says := range []string{"Table does not exist", "Address family not supported by protocol", "Protocol not supported"} {
		if strings.Contains(err.Error(), says) {
			return nil
		}
	}
	return err
}

// complaintOf is what a program has said that was run for its output.
func complaintOf(err error) string {
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return ""
	}
	return strings.TrimSpace(string(failed.Stderr))
}

// dropTables undoes the lock of a criu that was built, or told, to use nftables: a table
// for each run.
func dropTables(ctx context.Context) error {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, "nft", "list", "tables", "inet").Output()
	if err != nil {
		return unlessUnable(fmt.Errorf("listing nft tables: %s: %w", complaintOf(err), err))
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

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

// A criu that saves processes freezes them and blocks all traffic of their network
// namespace with firewall rules. If it is killed, it leaves both; if it outlives its
// server, it could do both again unknown to the next server. So each criu has a file,
// locked by all its processes: whoever finds the file ends them first.

// criuGrace is how long a criu that is no longer wanted may take to end by itself. It has
// the container's processes do part of the work, by injecting a few instructions at a
// time, and killing criu kills the processes that are executing these. A short dump is
// done by then, and a long one spends nearly all its time writing memory, which is safe
// to interrupt (measured with criu 4.2: of dumps of 4 MiB in two containers, one kill in
// 20 ended a container).
const criuGrace = 3 * time.Second

// savingFile exists while a criu is at work in the sandbox, or after one was killed
// there.
func (r *Runtime) savingFile(sandboxID string) string {
	return filepath.Join(r.sandboxDir(sandboxID), "criu")
}

// beginSave returns the lock to lend to a criu that is about to start. Once criu has
// ended by itself, its file must be removed.
func (r *Runtime) beginSave(ctx context.Context, s *cri.Sandbox) (*flock.Lock, error) {
	if err := r.endSave(ctx, s); err != nil {
		return nil, err
	}
	return flock.Acquire(ctx, r.savingFile(s.ID), flock.Exclusive)
}

// endSave ends a criu that did not end by itself, and unblocks the network. Whatever criu
// has frozen must be thawed after that.
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

// unlockNetwork unblocks the Pod's network, which a killed criu has blocked.
func (r *Runtime) unlockNetwork(ctx context.Context, s *cri.Sandbox) error {
	// criu never blocks the host's network, which is its own; and a Pod's may be gone.
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

// endSaves is endSave for everything that an earlier server had begun. A sandbox that is
// not among those given is half created or half removed, and its network goes with it.
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

// forgetCheckpoints removes the remains of interrupted checkpoints, which may include all
// of a container's memory.
func (r *Runtime) forgetCheckpoints(ctx context.Context, containers []*cri.Container) {
	for _, c := range containers {
		if err := os.RemoveAll(checkpointDir(c)); err != nil { // the next checkpoint, or the container's removal, does it
			r.cfg.Logger.WarnContext(ctx, "removing a checkpoint that a killed server was making", "container", c.ID, "err", err)
		}
	}
}

// undoLock returns the iptables-restore input that removes the rules and the chain that
// criu creates by default, "" if there are none. A criu that was killed while removing
// them itself has left some of them.
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

// dropChains undoes criu's blocking by iptables in the calling thread's network
// namespace. If that is not installed, or the kernel lacks what it needs, criu cannot
// have used it.
func dropChains(ctx context.Context, tool string) error {
	if _, err := exec.LookPath(tool + "-restore"); err != nil {
		return nil
	}
	// All chains are listed, because iptables-nft 1.8.9 reports a chain that does not
	// exist as incompatible.
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

// unlessUnable returns nil for the messages of iptables and nft that the kernel lacks
// legacy tables (a module), IPv6 or nf_tables.
func unlessUnable(err error) error {
	for _, says := range []string{"Table does not exist", "Address family not supported by protocol", "Protocol not supported"} {
		if strings.Contains(err.Error(), says) {
			return nil
		}
	}
	return err
}

// complaintOf returns the standard error of a program that was run for its output.
func complaintOf(err error) string {
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return ""
	}
	return strings.TrimSpace(string(failed.Stderr))
}

// dropTables undoes the blocking by a criu that was built or configured to use nftables:
// one table for each run.
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

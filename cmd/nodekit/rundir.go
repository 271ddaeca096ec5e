package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/kubeletdir"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// runDirPrefix is the prefix of the directories of throw-away nodes.
const runDirPrefix = "nodekit-run-"

// runDir is the directory of a throw-away node. Its lock is held as long as its process
// lives, so that a later run can recognize what a killed one left.
type runDir struct {
	path string
	lock *os.File
}

func (d *runDir) root() string { return filepath.Join(d.path, "root") }
func (d *runDir) run() string  { return filepath.Join(d.path, "run") }

// makeRunDir creates a directory for a node of this process.
func makeRunDir() (*runDir, error) {
	fresh, err := os.MkdirTemp("", "nodekit-new-")
	if err != nil {
		return nil, err
	}
	d, err := lockRunDir(fresh)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(fresh))
	}
	// It gets the name that sweep looks for only once it is locked.
	d.path = strings.Replace(fresh, "nodekit-new-", runDirPrefix, 1)
	if err := os.Rename(fresh, d.path); err != nil {
		return nil, errors.Join(err, os.RemoveAll(fresh), d.lock.Close())
	}
	return d, nil
}

// lockRunDir locks the directory; unix.EWOULDBLOCK means that the process that it
// belongs to is alive.
func lockRunDir(path string) (*runDir, error) {
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &runDir{path: path, lock: lock}, nil
}

// remove deletes the directory if nothing is mounted there any more.
func (d *runDir) remove() error {
	return errors.Join(mount.RemoveAll(d.path), d.lock.Close())
}

// sweep cleans up after killed runs: it starts each dead node once more, which takes
// over what exists, and destroys it.
func sweep(ctx context.Context, cfg node.Config, tell func(string)) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), runDirPrefix+"*"))
	for _, path := range left {
		if !mine(path) {
			continue
		}
		d, err := lockRunDir(path)
		if err != nil {
			continue // it lives
		}
		tell("taking down what a killed run left in " + path)
		if err := d.sweep(ctx, cfg, tell); err != nil {
			tell(fmt.Sprintf("not everything could be removed: %v", err))
		}
	}
}

// sweep destroys the directory's node. If the node does not start, the directory is
// kept for the next run. If a plugin never releases something, that is reported and
// abandoned, as at the end of the run itself.
func (d *runDir) sweep(ctx context.Context, cfg node.Config, tell func(string)) error {
	cfg.Root, cfg.Run = d.root(), d.run()
	// The killed run may have made /var/lib/kubelet for its plugins.
	release, err := kubeletdir.Hold()
	if err != nil {
		return errors.Join(err, d.lock.Close())
	}
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return errors.Join(err, release(), d.lock.Close())
	}
	if err := n.Destroy(ctx); err != nil {
		tell(fmt.Sprintf("what a plugin does not release is left: %v", err))
	}
	return errors.Join(release(), d.remove())
}

// mine reports whether only this user can have created the directory path: anybody can
// create entries in the temporary directory.
func mine(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o700 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// Package scratch makes temporary directories that belong to a process as long as it
// lives, and takes down those of processes that were killed.
//
// A directory contains a file that its process keeps locked. The kernel releases the lock
// when the process ends, however that happens. A directory without that file is never
// touched.
package scratch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// marker is the name of the locked file, and freshMarker its name before it is locked.
const (
	marker      = ".nodekit-scratch"
	freshMarker = ".nodekit-scratch-new"
)

// prefix begins the names of directories. It is short because sockets are put below them,
// whose paths are limited to 107 bytes.
const prefix = "nk"

// Dir is a temporary directory of this process.
type Dir struct {
	path string
	lock *flock.Lock
}

// New makes a directory, accessible to this user only, in os.TempDir. It must be removed
// with Remove. New is safe for concurrent use.
func New() (*Dir, error) {
	path, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path}
	if d.lock, err = flock.TryAcquire(filepath.Join(path, freshMarker), flock.Exclusive); err == nil {
		// It gets the name that Sweep looks for only once it is locked.
		err = os.Rename(filepath.Join(path, freshMarker), filepath.Join(path, marker))
	}
	if err != nil {
		d.lock.Release()
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return d, nil
}

// Path returns the absolute path of the directory.
func (d *Dir) Path() string { return d.path }

// Remove removes the directory and what is below it, but nothing that is mounted there:
// it refuses as mount.RemoveAll does. After an error, a later Sweep of another process
// finishes the work.
func (d *Dir) Remove() error {
	defer d.lock.Release()
	return removeFree(d.path)
}

// removeFree removes the directory unless something is still mounted there.
func removeFree(path string) error {
	if err := mount.Free(path); err != nil && !errors.Is(err, mount.ErrUnsupported) {
		return err
	}
	return remove(path)
}

// remove removes a directory and the marker last, so that what an interruption leaves is
// still recognized.
func remove(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != marker {
			errs = append(errs, os.RemoveAll(filepath.Join(path, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

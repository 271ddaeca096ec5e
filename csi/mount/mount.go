// Package mount performs the mounts of a CSI node plugin. Each function is idempotent
// as the specification requires of the call that it serves, so an author's
// PublishVolume can be one line.
//
// The kernel's mount table is the only state. A read-only mount is read-only from the
// instant at which it appears, a path that is a symbolic link is never followed, and
// nothing that is still mounted is ever deleted. The package works only on Linux:
// elsewhere every function returns an error that says so. It is safe for concurrent use
// on different paths.
package mount

import (
	"errors"
	"fmt"
	"os"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// Stage bind-mounts source, a directory or file, at the existing path staging. It
// succeeds if that is done already; if another source is at the path, the error is
// csi.ErrAlreadyExists.
func Stage(source, staging string) error { return show(source, staging, false) }

// Publish creates target and bind-mounts source, a directory or file, there. A repeated
// call succeeds with the same arguments, and returns csi.ErrAlreadyExists with others.
// source must exist (csi.ErrNotFound).
func Publish(source, target string, readOnly bool) error {
	fi, err := os.Stat(source)
	if errors.Is(err, os.ErrNotExist) {
		return fault.NotFound.Errorf("publishing at %q: %w", target, err)
	}
	if err != nil {
		return err
	}
	if err := makeTarget(target, fi.IsDir()); err != nil {
		return fmt.Errorf("publishing at %q: %w", target, err)
	}
	return show(source, target, readOnly)
}

// Unstage unmounts staging and keeps the directory. It succeeds for a path that is not
// mounted or does not exist.
func Unstage(staging string) error { return mount.Unmount(staging) }

// Unpublish unmounts target and removes it. It must then be empty: data that a driver
// put there without a mount is not deleted. Unpublish succeeds if target does not
// exist.
func Unpublish(target string) error {
	if err := mount.Unmount(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing target: %w", err)
	}
	return nil
}

// Mounted reports whether something is mounted at path. It does not access the mounted
// file system, so it never blocks on a dead one.
func Mounted(path string) (bool, error) { return mount.IsMountPoint(path) }

// Shows reports whether source is bind-mounted at path.
func Shows(source, path string) (bool, error) {
	is, _, err := mount.IsBind(source, path)
	return is, err
}

func makeTarget(target string, dir bool) error {
	if on, err := mount.IsMountPoint(target); on || err != nil {
		return err
	}
	var err error
	if dir {
		err = os.Mkdir(target, 0o750)
	} else {
		err = makeFile(target)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func show(source, target string, readOnly bool) error {
	on, err := mount.IsMountPoint(target)
	if err != nil {
		return err
	}
	if !on {
		return mount.Bind(source, target, &mount.BindOptions{ReadOnly: readOnly})
	}
	same, ro, err := mount.IsBind(source, target)
	switch {
	case err != nil:
		return err
	case !same:
		return fault.AlreadyExists.Errorf("something other than %q is mounted at %q", source, target)
	case ro != readOnly:
		return fault.AlreadyExists.Errorf("%q is mounted at %q with read-only=%t", source, target, ro)
	}
	return nil
}

func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

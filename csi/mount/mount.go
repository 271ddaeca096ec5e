// Package mount does the mounts of a CSI node plugin: each function is
// idempotent in the way that the specification asks of the call it serves, so an
// author's PublishVolume can be one line.
//
// The mount table of the kernel is the only state. A read-only mount is
// read-only from the instant at which it appears, a path is never followed when
// it is a symbolic link, and nothing that is still mounted is ever deleted.
// Linux only: elsewhere every function returns an error that says so. Safe for
// concurrent use on different paths.
package mount

import (
	"errors"
	"fmt"
	"os"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// Stage shows the directory or file source at the existing path staging. A
// repetition is success; another source at the path is csi.ErrAlreadyExists.
func Stage(source, staging string) error { return show(source, staging, false) }

// Publish makes target and shows the directory or file source there. A
// repetition with the same arguments is success, one with others
// csi.ErrAlreadyExists. source must exist (csi.ErrNotFound).
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

// Unstage takes away what is mounted at staging and leaves the directory. A path
// that is not mounted or does not exist is success.
func Unstage(staging string) error { return mount.Unmount(staging) }

// Unpublish takes away what is mounted at target and removes target, which must
// be empty then: data that a driver put there without a mount is not deleted. A
// target that does not exist is success.
func Unpublish(target string) error {
	if err := mount.Unmount(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing target: %w", err)
	}
	return nil
}

// Mounted reports whether something is mounted at path. It does not touch the
// file system that is mounted, so it never blocks on a dead one.
func Mounted(path string) (bool, error) { return mount.IsMountPoint(path) }

// Shows reports whether the mount at path shows source.
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

package image

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/overlay"
)

// mappedDir is where, below the directory of a root file system, its layers are mounted
// while the overlay is being mounted.
const mappedDir = "mapped"

// mountMapped mounts o with ID-mapped lower directories, which overlay itself cannot
// provide: each is mounted below dir with the ID mapping of the user namespace at userns.
// The overlay holds on to these mounts, so they are removed from the mount table once it
// is mounted.
func mountMapped(o overlay.Options, dir, userns string) (err error) {
	owners, err := os.Open(userns)
	if err != nil {
		return err
	}
	defer owners.Close()
	if err := unmap(dir); err != nil { // left by a crash during an earlier mount
		return err
	}
	defer func() { err = errors.Join(err, unmap(dir)) }()
	mapped := make([]string, len(o.Lower))
	for i, lower := range o.Lower {
		mapped[i] = filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(mapped[i], 0o700); err != nil {
			return err
		}
		if err := mount.Bind(lower, mapped[i], &mount.BindOptions{Owners: owners}); err != nil {
			return err
		}
	}
	o.Lower = mapped
	return overlay.Mount(o)
}

// unmap removes what mountMapped left, if anything.
func unmap(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreNotExist(err)
	}
	for _, e := range entries {
		layer := filepath.Join(dir, e.Name())
		if err := errors.Join(overlay.Unmount(layer), ignoreNotExist(os.Remove(layer))); err != nil {
			return err
		}
	}
	return ignoreNotExist(os.Remove(dir))
}

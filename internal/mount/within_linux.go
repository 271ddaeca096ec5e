package mount

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxAsked is how many files are asked. The mount table of a node with a hundred
// Pods takes the kernel a millisecond to write.
const maxAsked = 256

// within returns a mount point at dir or below it, or "", by asking every file
// there. It is not sure with more than maxAsked files, and before Linux 5.8.
func within(dir string) (point string, sure bool, err error) {
	var asked int
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if asked++; asked > maxAsked {
			return errNotSure
		}
		is, err := isRoot(path)
		if is {
			point = path
			return filepath.SkipAll
		}
		return err
	})
	if errors.Is(err, errNotSure) {
		return "", false, nil
	}
	return point, err == nil, err
}

var errNotSure = errors.New("the files do not tell")

// isRoot reports whether something is mounted at the path.
func isRoot(path string) (bool, error) {
	var st unix.Statx_t
	// A file system that is stuck is not asked: the answer is not its own.
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, path, flags, 0, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	case st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return false, errNotSure
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

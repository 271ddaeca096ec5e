package mount

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// maxAsked is how many files are asked. The mount table of a node with a hundred Pods
// takes the kernel a millisecond to write.
const maxAsked = 256

// within returns a mount point at dir or below it, or "", by asking every file there.
// It is not sure if there are more than maxAsked files, and before Linux 5.8.
func within(dir string) (point string, sure bool, err error) {
	left := maxAsked
	point, err = ask(dir, true, &left)
	if errors.Is(err, errNotSure) {
		return "", false, nil
	}
	return point, err == nil, err
}

var errNotSure = errors.New("the files do not tell")

// ask checks path and, if it is a directory, everything below. Nothing else is asked
// of a file before it is known not to be a mount point, and no more names are read
// than may be asked.
func ask(path string, dir bool, left *int) (point string, err error) {
	if *left--; *left < 0 {
		return "", errNotSure
	}
	is, err := isRoot(path)
	if is {
		return path, nil
	}
	if err != nil || !dir {
		return "", err
	}
	f, err := rawfile.Open(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return "", nil // it is gone, or was a file from the start
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	entries, err := f.ReadDir(*left + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	for _, e := range entries {
		if point, err = ask(filepath.Join(path, e.Name()), e.IsDir(), left); point != "" || err != nil {
			return point, err
		}
	}
	return "", nil
}

// isRoot reports whether something is mounted at the path.
func isRoot(path string) (bool, error) {
	var st unix.Statx_t
	// With AT_STATX_DONT_SYNC a hanging file system is not contacted: the answer is
	// the kernel's own.
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

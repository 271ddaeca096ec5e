package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/xattr"
)

// copyAttributes gives the directory dir of the unpacked layer at root the owner, mode,
// times and extended attributes that it has in the topmost of the layers below. If none
// has it, or it is something else there, it stays as it is; likewise if dir turns out not
// to be a directory.
//
// dir has no symbolic link in root. In a layer below it may; there it is resolved as in a
// container.
func copyAttributes(root, dir string, below []string) error {
	target := filepath.Join(root, dir)
	if fi, err := os.Lstat(target); err != nil || !fi.IsDir() {
		return ignoreNotExist(err)
	}
	for _, layer := range below {
		from, err := openIn(layer, dir)
		if errors.Is(err, unix.ENOENT) {
			if hidesBelow(layer, dir) {
				return nil
			}
			continue
		}
		if err != nil { // ENOTDIR: a layer replaced what lies above it; ELOOP
			return nil
		}
		return errors.Join(copyFrom(from, target), unix.Close(from))
	}
	return nil
}

// hidesBelow reports whether the layer, which does not have dir itself, hides dir of the
// layers below it: a directory above dir is opaque.
func hidesBelow(layer, dir string) bool {
	for up := filepath.Dir(filepath.Join("/", dir)); ; up = filepath.Dir(up) {
		fd, err := openIn(layer, up)
		if err == nil {
			value, _ := xattr.GetAt(fmt.Sprintf("/proc/self/fd/%d", fd), "trusted.overlay.opaque")
			_ = unix.Close(fd)
			if string(value) == "y" {
				return true
			}
		}
		if up == "/" {
			return false
		}
	}
}

// openIn opens a path in an unpacked layer. Absolute links start at the layer's root, and
// nothing leads out of it.
func openIn(layer, path string) (int, error) {
	top, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("layer %q: %w", layer, err)
	}
	fd, err := unix.Openat2(top, strings.TrimPrefix(path, "/"), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	return fd, errors.Join(err, unix.Close(top))
}

func copyFrom(from int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(target, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(fmt.Sprintf("/proc/self/fd/%d", from), target); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, target, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyXattrs omits the trusted attributes, in which overlay keeps its marks.
func copyXattrs(from, target string) error {
	names, err := xattr.ListAt(from)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.") {
			continue
		}
		value, err := xattr.GetAt(from, name)
		if err == nil {
			err = unix.Lsetxattr(target, name, value, unix.XATTR_CREATE)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("attribute %q: %w", name, err)
		}
	}
	return nil
}

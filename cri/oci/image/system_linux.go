package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// applyLayer unpacks a layer's tar stream into root, with the marks of deleted
// files in overlay's form. The unpacker resolves every path inside root.
func applyLayer(ctx context.Context, root string, r io.Reader, opts ...archive.ApplyOpt) error {
	if os.Geteuid() != 0 {
		return fault.PermissionDenied.Errorf("only root can unpack layers: run it with sudo")
	}
	_, err := archive.Apply(ctx, root, r, append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))...)
	return err
}

// syncFS makes everything written to the file system of dir durable, in one
// call instead of one for each file.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// diskUsage counts what the tree at root takes; a file with several links
// counts once.
func diskUsage(root string) (bytes, inodes uint64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !d.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		bytes += uint64(st.Blocks) * 512
		inodes++
		return nil
	})
	return bytes, inodes, err
}

// mountOptionLimit is what mount(2) copies of its data: a page with its
// terminating zero.
const mountOptionLimit = 4095

// maxLowerDirs is OVL_MAX_STACK of fs/overlayfs/params.h.
const maxLowerDirs = 500

// mountOverlay mounts o. Where the paths do not fit into the page that
// mount(2) takes, or hold a character that has a meaning in its options, it
// names the directories by descriptors, 17 bytes each.
func mountOverlay(o overlay) error {
	if len(o.lower) > maxLowerDirs {
		return fault.FailedPrecondition.Errorf("the image has %d layers, and overlay takes %d", len(o.lower), maxLowerDirs)
	}
	options := o.options(func(path string) string { return path })
	paths := strings.Join(o.lower, "") + o.upper + o.work
	if len(options) > mountOptionLimit || strings.ContainsAny(paths, `:,\`) {
		short, closeAll, err := o.byDescriptor()
		defer closeAll()
		if err != nil {
			return err
		}
		options = short
	}
	if len(options) > mountOptionLimit {
		return fault.FailedPrecondition.Errorf("the image has %d layers, too many for one mount", len(o.lower))
	}
	if err := unix.Mount("overlay", o.target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mounting overlay on %q: %w", o.target, err)
	}
	return nil
}

func (o overlay) options(name func(path string) string) string {
	lower := make([]string, len(o.lower))
	for i, dir := range o.lower {
		lower[i] = name(dir)
	}
	return "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + name(o.upper) + ",workdir=" + name(o.work) + ",index=off"
}

// byDescriptor returns the options with /proc/self/fd names. The descriptors
// must stay open until the mount is made.
func (o overlay) byDescriptor() (options string, closeAll func(), err error) {
	var open []int
	options = o.options(func(path string) string {
		fd, openErr := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if openErr != nil {
			err = errors.Join(err, fmt.Errorf("opening %q: %w", path, openErr))
			return ""
		}
		open = append(open, fd)
		return "/proc/self/fd/" + strconv.Itoa(fd)
	})
	return options, func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}, err
}

// isMounted reports whether path is the root of a mount. It needs Linux 5.8.
func isMounted(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at %q: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, fault.Unimplemented.Errorf("this kernel does not tell mount points (statx): Linux 5.8 or newer is needed")
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// unmount takes away the topmost mount on path. One that a process still uses
// is detached and ends with its last user.
func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount point any more
		return fmt.Errorf("unmounting %q: %w", path, err)
	}
	return nil
}

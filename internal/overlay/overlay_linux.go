package overlay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// mountOptionLimit is how much data mount(2) copies: a page, including the
// terminating zero.
const mountOptionLimit = 4095

// maxLowerDirs is OVL_MAX_STACK in fs/overlayfs/params.h.
const maxLowerDirs = 500

// Mount mounts o. If the paths do not fit into the page that mount(2) takes, or
// contain a character with a meaning in its options (such as a quotation mark, which
// SELinux interprets when it looks for its own options), it names the directories by
// descriptors, 17 bytes each.
func Mount(o Options) error {
	if len(o.Lower) > maxLowerDirs {
		return fault.FailedPrecondition.Errorf("%d lower directories, and overlay takes %d", len(o.Lower), maxLowerDirs)
	}
	options := o.options(func(path string) string { return path })
	paths := strings.Join(o.Lower, "") + o.Upper + o.Work
	if len(options) > mountOptionLimit || strings.ContainsAny(paths, `:,\"`) {
		short, closeAll, err := o.byDescriptor()
		defer closeAll()
		if err != nil {
			return err
		}
		options = short
	}
	if len(options) > mountOptionLimit {
		return fault.FailedPrecondition.Errorf("%d lower directories are too many for one mount", len(o.Lower))
	}
	if err := unix.Mount("overlay", o.Target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mounting overlay on %q: %w", o.Target, err)
	}
	return nil
}

// plain makes every file of an upper directory whole, and puts every directory where
// its name says, whatever the defaults of the kernel and its module: such a directory
// can be read, and be a layer, without an overlay. Renaming a lower directory then
// fails with EXDEV, as it does by default, and programs copy it instead. Linux 4.19
// knows the options, and mounts in user namespaces accept them.
const plain = ",redirect_dir=nofollow,metacopy=off"

func (o Options) options(name func(path string) string) string {
	lower := make([]string, len(o.Lower))
	for i, dir := range o.Lower {
		lower[i] = name(dir)
	}
	all := "lowerdir=" + strings.Join(lower, ":") + plain + ContextOption(o.Context)
	if o.Upper == "" {
		return all
	}
	all += ",upperdir=" + name(o.Upper) + ",workdir=" + name(o.Work) + ",index=off"
	if o.Volatile {
		all += ",volatile"
	}
	return all
}

// byDescriptor returns the options with /proc/self/fd names. The descriptors must
// stay open until the mount is created.
func (o Options) byDescriptor() (options string, closeAll func(), err error) {
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
			_ = unix.Close(fd)
		}
	}, err
}

// IsMounted reports whether path is the root of a mount. It needs Linux 5.8.
func IsMounted(path string) (bool, error) {
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

// Unmount unmounts the topmost mount at path. If a process still uses it, it is
// detached and ends with its last user.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is no longer a mount point
		return fmt.Errorf("unmounting %q: %w", path, err)
	}
	return nil
}

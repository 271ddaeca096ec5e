package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// tableFile is the mount table as the calling thread sees it.
const tableFile = "/proc/thread-self/mountinfo"

// Table returns the mounts that the calling thread sees.
func Table() ([]Mount, error) {
	f, err := os.Open(tableFile)
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	defer f.Close()
	return Parse(f)
}

// At returns the topmost mount whose mount point is path, or nil if path is not a
// mount point or does not exist.
func At(path string) (*Mount, error) {
	p, err := resolve(path)
	if err != nil || p == "" {
		return nil, err
	}
	table, err := Table()
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Backward(table) {
		if m.Point == p {
			return &m, nil
		}
	}
	return nil, nil
}

// IsMountPoint reports whether something is mounted at path.
func IsMountPoint(path string) (bool, error) {
	m, err := At(path)
	return m != nil, err
}

// Below returns the mount points at dir and below it, in an order in which they can
// be unmounted: each before those above it in the tree, and of several at one point
// the latest first.
func Below(dir string) ([]string, error) {
	p, err := resolve(dir)
	if err != nil || p == "" {
		return nil, err
	}
	table, err := os.ReadFile(tableFile)
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	all, err := points(string(table))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, point := range slices.Backward(all) {
		if below(point, p) {
			found = append(found, point)
		}
	}
	// A mount can be older than the one below which it lies (mount --move, or a later
	// bind mount over a parent), so depth decides and age breaks ties.
	slices.SortStableFunc(found, func(a, b string) int { return len(b) - len(a) })
	return found, nil
}

// resolve returns path with symbolic links in its directory resolved and its last
// component unchanged, or "" if the directory does not exist.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("resolving %q: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// Bind mounts source at target. The mount appears with all its options at once. It
// stacks on an existing mount: callers that must be idempotent call IsBind first.
// Both paths must exist, and target must not be a symbolic link (fault.Invalid).
func Bind(source, target string, o *BindOptions) error {
	if o == nil {
		o = &BindOptions{}
	}
	if err := refuseLink(target); err != nil {
		return err
	}
	err := bindTree(source, target, o)
	if errors.Is(err, unix.ENOSYS) && o.Owners == nil { // before Linux 5.12
		err = bindClassic(source, target, o)
	}
	if err != nil {
		return fmt.Errorf("bind mounting %q at %q: %w", source, target, err)
	}
	return nil
}

// bindTree creates a detached mount, sets its attributes and only then attaches it,
// so that nobody ever sees it without them, even after a kill.
func bindTree(source, target string, o *BindOptions) error {
	flags, at := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), uint(unix.AT_EMPTY_PATH)
	if o.Recursive {
		flags |= unix.AT_RECURSIVE
		at |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := &unix.MountAttr{Attr_set: attributes(o), Propagation: unix.MS_PRIVATE}
	if o.Owners != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(o.Owners.Fd())
	}
	if err := unix.MountSetattr(fd, "", at, attr); err != nil {
		if o.Owners != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)) {
			return fault.FailedPrecondition.Errorf("the file system cannot show its files to another user namespace: %w", err)
		}
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func attributes(o *BindOptions) (set uint64) {
	for _, a := range []struct {
		on  bool
		bit uint64
	}{
		{o.ReadOnly, unix.MOUNT_ATTR_RDONLY},
		{o.NoExec, unix.MOUNT_ATTR_NOEXEC},
		{o.NoSUID, unix.MOUNT_ATTR_NOSUID},
		{o.NoDev, unix.MOUNT_ATTR_NODEV},
	} {
		if a.on {
			set |= a.bit
		}
	}
	return set
}

// bindClassic needs two calls for a restricted mount. If the second fails or never
// happens, a caller's retry finds an unrestricted mount, which IsBind does not accept
// as the restricted one.
func bindClassic(source, target string, o *BindOptions) error {
	flags := uintptr(unix.MS_BIND)
	if o.Recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		return err
	}
	change := uintptr(0)
	for _, a := range []struct {
		on  bool
		bit uintptr
	}{{o.ReadOnly, unix.MS_RDONLY}, {o.NoExec, unix.MS_NOEXEC}, {o.NoSUID, unix.MS_NOSUID}, {o.NoDev, unix.MS_NODEV}} {
		if a.on {
			change |= a.bit
		}
	}
	err := unix.Mount("", target, "", unix.MS_PRIVATE, "")
	if err == nil && change != 0 {
		err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|change, "")
	}
	if err != nil {
		return errors.Join(err, unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
	return nil
}

func refuseLink(target string) error {
	fi, err := os.Lstat(target)
	if err != nil {
		return err
	}
	if fi.Mode()&os.ModeSymlink != 0 {
		return fault.Invalid.Errorf("mount target %q is a symbolic link", target)
	}
	return nil
}

// IsBind reports whether the topmost mount at target shows source, and whether it is
// read-only. Both are false if target is not a mount point.
func IsBind(source, target string) (is, readOnly bool, err error) {
	m, err := At(target)
	if err != nil || m == nil {
		return false, false, err
	}
	s, err := os.Stat(source)
	if err != nil {
		return false, false, err
	}
	t, err := os.Stat(target)
	if err != nil {
		return false, false, err
	}
	return os.SameFile(s, t), m.ReadOnly, nil
}

// Tmpfs mounts a new tmpfs at target, without device files and set-uid programs.
func Tmpfs(target string, o *TmpfsOptions) error {
	if o == nil {
		o = &TmpfsOptions{}
	}
	mode := o.Mode
	if mode == 0 {
		mode = 0o777
	}
	data := fmt.Sprintf("mode=%o,gid=%d", mode, o.GID)
	if o.Size > 0 {
		data += fmt.Sprintf(",size=%d", o.Size)
	}
	if err := refuseLink(target); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mounting a tmpfs at %q: %w", target, err)
	}
	return nil
}

// Unmount unmounts every mount at path, the topmost first, and leaves the path
// itself. It succeeds if the path is not mounted or does not exist; if a mount is in
// use, the error wraps unix.EBUSY.
func Unmount(path string) error { return unmountAll(path, unix.UMOUNT_NOFOLLOW) }

// Detach is Unmount for a mount that may be in use: it disappears from the tree
// at once, and from the kernel when its last user is gone.
func Detach(path string) error {
	return unmountAll(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
}

func unmountAll(path string, flags int) error {
	for {
		mounted, err := IsMountPoint(path)
		if err != nil || !mounted {
			return err
		}
		// ENOENT and EINVAL: somebody else was faster; the next check decides.
		err = unix.Unmount(path, flags)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %q: %w", path, err)
		}
		if err != nil {
			still, lookErr := IsMountPoint(path)
			if lookErr != nil || still {
				return errors.Join(fmt.Errorf("unmounting %q: %w", path, err), lookErr)
			}
		}
	}
}

// DetachTree detaches every mount at dir and below it and returns nil if none is
// left.
func DetachTree(dir string) error {
	points, err := Below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range points {
		errs = append(errs, Detach(p))
	}
	return errors.Join(errs...)
}

// RemoveAll removes dir and everything below it, but nothing that is mounted there:
// it refuses (fault.FailedPrecondition) while dir or anything below it is a mount
// point, so that a volume whose unmount failed keeps its data.
func RemoveAll(dir string) error {
	if err := Free(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Free returns an error (fault.FailedPrecondition) while dir or anything below it is
// a mount point.
func Free(dir string) error {
	point, err := anyBelow(dir)
	if err == nil && point != "" {
		err = fault.FailedPrecondition.Errorf("removing %q: %q is still mounted", dir, point)
	}
	return err
}

// anyBelow returns a mount point at dir or below it, or "".
func anyBelow(dir string) (string, error) {
	// If a file cannot be asked, the mount table has the answer nevertheless.
	if point, sure, err := within(dir); err == nil && sure {
		return point, nil
	}
	points, err := Below(dir)
	if err != nil || len(points) == 0 {
		return "", err
	}
	return points[0], nil
}

// MakeShared makes dir a mount point whose mounts propagate to and from its peers, as
// a kubelet's root needs for mounts that plugins and containers make below it. It is
// idempotent. UndoShared undoes it.
func MakeShared(dir string) error {
	m, err := At(dir)
	if err != nil {
		return err
	}
	if m != nil && m.Shared {
		return nil
	}
	if m == nil {
		if err := Bind(dir, dir, &BindOptions{Recursive: true}); err != nil {
			return err
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("making %q a shared mount: %w", dir, err)
	}
	return nil
}

// UndoShared detaches what is mounted below dir, and what MakeShared mounted at dir.
// A mount that was there before, such as an operator's disk, stays.
func UndoShared(dir string) error {
	points, err := Below(dir)
	if err != nil || len(points) == 0 {
		return err
	}
	at, err := resolve(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range points {
		if p != at {
			errs = append(errs, Detach(p))
		}
	}
	onItself, err := isOnItself(at)
	if onItself {
		err = Detach(at)
	}
	return errors.Join(append(errs, err)...)
}

// isOnItself reports whether the mount at path shows what would be there without it:
// the same place in the same file system.
func isOnItself(path string) (bool, error) {
	m, err := At(path)
	if err != nil || m == nil {
		return false, err
	}
	table, err := Table()
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(table, func(parent Mount) bool { return parent.ID == m.Parent })
	if i < 0 {
		return false, nil
	}
	parent := table[i]
	rel, err := filepath.Rel(parent.Point, path)
	return err == nil && m.Source == parent.Source && m.Type == parent.Type && m.Root == filepath.Join(parent.Root, rel), nil
}

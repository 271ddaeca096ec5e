package daemon

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/overlay"
)

// views runs functions in mount namespaces as wire.View describes them. Copying a
// namespace and unmounting what is too much would cost more than all the mounts are worth:
// a view begins as a copy of a namespace that is almost empty, and gets a copy of the
// mounts at /, from which the kernel leaves out what cannot be bound. It always shows the
// host's mounts of this moment, in their peer groups.
type views struct {
	log   *slog.Logger
	limit time.Duration // for entering one; zero means viewLimit

	once  sync.Once
	empty int // descriptor of the namespace that is almost empty
	err   error
}

// within runs f on a thread in the view, and reports whether that was possible and
// succeeded. Otherwise the caller does it among all mounts, and learns what is wrong.
func (v *views) within(view *wire.View, f func() error) bool {
	v.once.Do(func() {
		if v.empty, v.err = emptyNamespace(); v.err != nil {
			v.log.Warn("OCI runtimes run among all mounts, and start containers slower", "err", v.err)
		}
	})
	if v.err != nil {
		return false
	}
	var turn sync.Once // whoever takes it decides whether f is run here
	result := make(chan error, 1)
	go func() {
		result <- nspin.OnThrowAwayThread(func() error {
			err := v.enter(view)
			turn.Do(func() {
				if err == nil {
					err = f()
				}
			})
			return err
		})
	}()
	entered := true
	select {
	case err := <-result:
		result <- err
	case <-time.After(cmp.Or(v.limit, viewLimit)):
		turn.Do(func() { entered = false })
	}
	if !entered {
		v.log.Warn("an OCI runtime runs among all mounts: looking at these takes too long", "paths", view.Paths)
		return false
	}
	err := <-result
	if err != nil {
		v.log.Warn("an OCI runtime runs among all mounts", "err", err)
	}
	return err == nil
}

// viewLimit is for a file system that does not answer, on which the OCI runtime will
// hang, too: but it can be killed.
const viewLimit = 5 * time.Second

// emptyNamespace returns a mount namespace with an empty root.
func emptyNamespace() (fd int, err error) {
	err = nspin.OnThrowAwayThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("making a mount namespace: %w", err)
		}
		if fd, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("opening a mount namespace: %w", err)
		}
		if err := emptyRoot(); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("emptying a mount namespace: %w", err)
		}
		return nil
	})
	return fd, err
}

// emptyRoot replaces all mounts of the thread's namespace.
func emptyRoot() error {
	const anywhere = "/proc"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("empty", anywhere, "tmpfs", unix.MS_RDONLY, "size=4k"); err != nil {
		return err
	}
	if err := unix.Chdir(anywhere); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root is then on top of the new one
		return err
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

// enter moves the thread into a new view, with the root as its working directory.
func (v *views) enter(view *wire.View) error {
	var trees []int
	defer func() {
		for _, fd := range trees {
			_ = unix.Close(fd)
		}
	}()
	points := slices.Concat([]string{"/"}, view.Mounts)
	for _, point := range points {
		fd, err := unix.OpenTree(unix.AT_FDCWD, point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("copying the mounts at %q: %w", point, err)
		}
		trees = append(trees, fd)
	}
	outside := identify(view.Paths)
	if err := v.enterEmpty(); err != nil {
		return fmt.Errorf("entering a mount namespace: %w", err)
	}
	for i, point := range points {
		// One that is not below an unbindable mount is there already. Mounted a second time,
		// below a shared mount, it would appear among the host's mounts, too.
		if there, _ := overlay.IsMounted(point); there && i > 0 {
			continue
		}
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mounting %q: %w", point, err)
		}
		if i > 0 {
			continue
		}
		if err := makeRoot(trees[i]); err != nil {
			return fmt.Errorf("changing the root: %w", err)
		}
		if err := unix.Mount("", view.Above, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("making %q private: %w", view.Above, err)
		}
	}
	for i, id := range identify(view.Paths) {
		if outside[i] != id {
			return fmt.Errorf("%q is below an unbindable mount", view.Paths[i])
		}
	}
	return nil
}

// identity distinguishes a file from others; it is the zero value for one that is not there.
type identity struct {
	major, minor uint32
	inode        uint64
}

func identify(paths []string) []identity {
	ids := make([]identity, len(paths))
	for i, path := range paths {
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st) == nil {
			ids[i] = identity{st.Dev_major, st.Dev_minor, st.Ino}
		}
	}
	return ids
}

// enterEmpty moves the thread into a copy of the namespace that is almost empty.
func (v *views) enterEmpty() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(v.empty, unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.Unshare(unix.CLONE_NEWNS)
}

// makeRoot makes the mount that was put over the root the thread's root. The kernel does
// not take a process for one in a chroot, which must not make user namespaces, whose root
// is the uppermost one of its mount namespace.
func makeRoot(tree int) error {
	if err := unix.Fchdir(tree); err != nil {
		return err
	}
	return unix.Chroot(".")
}

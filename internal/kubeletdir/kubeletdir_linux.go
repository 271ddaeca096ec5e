package kubeletdir

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Enter returns a function that gives the calling thread a mount namespace in which
// root is mounted at Path. It is meant for supervisor.Command.Enter: the thread must
// be locked, and must end afterwards. Path must exist (see Hold).
func Enter(root string) func() error {
	return func() error {
		if err := enter(root); err != nil {
			return fmt.Errorf("binding %q at %s: %w", root, Path, err)
		}
		return nil
	}
}

func enter(root string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	// Copies of the mount, made before the namespace is detached from its parent's
	// propagation, stay peers of the original. The root needs a copy at its own path
	// too: that is where calls to the plugin tell it to mount.
	var trees [2]int
	for i := range trees {
		tree, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		trees[i] = tree
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cutting the mount namespace off: %w", err)
	}
	for i, at := range []string{root, Path} {
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return err
		}
	}
	return nil
}

// mark is the attribute of a directory created by Hold, so that its last user knows
// that it may be removed.
const mark = "trusted.nodekit"

// Hold ensures that the directory Path exists until release is called. The last
// release removes it if a Hold created it and it is empty. Other processes may do the
// same concurrently; one that is killed leaves an empty directory, which the next one
// takes over.
func Hold() (release func() error, err error) {
	for {
		dir, gone, err := hold()
		if err != nil {
			return nil, fmt.Errorf("holding %s: %w", Path, err)
		}
		if !gone {
			return func() error { return drop(dir) }, nil
		}
	}
}

// hold opens the directory with a shared lock. gone says that somebody removed it in
// between.
func hold() (dir *os.File, gone bool, err error) {
	switch err := os.Mkdir(Path, 0o750); {
	case err == nil:
		if err := unix.Setxattr(Path, mark, []byte("1"), 0); err != nil {
			return nil, false, errors.Join(err, os.Remove(Path))
		}
	case !errors.Is(err, os.ErrExist):
		return nil, false, err
	}
	dir, err = os.Open(Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_SH); err != nil {
		return nil, false, errors.Join(err, dir.Close())
	}
	opened, err := dir.Stat()
	if err != nil {
		return nil, false, errors.Join(err, dir.Close())
	}
	now, err := os.Stat(Path)
	if err != nil || !os.SameFile(opened, now) {
		return nil, true, dir.Close()
	}
	return dir, false, nil
}

func drop(dir *os.File) error {
	defer dir.Close()
	if _, err := unix.Fgetxattr(int(dir.Fd()), mark, make([]byte, 1)); err != nil {
		return nil // it was there before us
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // somebody else needs it
	}
	if err := os.Remove(Path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

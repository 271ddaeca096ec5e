package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// own gives a writable volume to the Pod's fsGroup, if it has one: everything in it
// belongs to the group, which may read and write it, and new entries of its directories
// inherit the group. With fsGroupChangePolicy OnRootMismatch, a volume whose root
// already has the group is left unchanged.
func own(dir string, p *v1.Pod) error {
	group := fsGroup(p)
	if group < 0 {
		return nil
	}
	if policy := p.Spec.SecurityContext.FSGroupChangePolicy; policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		fi, err := os.Stat(dir)
		if err != nil || owned(fi, group) {
			return err
		}
	}
	// The root comes last: its group shows that the walk was complete.
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			err = ownOne(path, group)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err == nil {
		err = ownOne(dir, group)
	}
	if err != nil {
		return fmt.Errorf("giving %q to group %d: %w", dir, group, err)
	}
	return nil
}

// ownOne changes one file or directory. It never follows a symbolic link.
func ownOne(path string, group int) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if err := os.Lchown(path, -1, group); err != nil || fi.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	bits := fs.FileMode(0o660)
	if fi.IsDir() {
		bits |= 0o110 | fs.ModeSetgid
	}
	return os.Chmod(path, fi.Mode()|bits)
}

func owned(fi fs.FileInfo, group int) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Gid) == group && fi.Mode()&fs.ModeSetgid != 0 && fi.Mode().Perm()&0o070 == 0o070
}

// fsGroup returns the Pod's fsGroup, or -1.
func fsGroup(p *v1.Pod) int {
	if sc := p.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		return int(*sc.FSGroup)
	}
	return -1
}

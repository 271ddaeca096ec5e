package label

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// relabelInside labels everything below path, if that is a directory. It goes by
// descriptors and follows no link: containers may be at work there, and must not have a
// name that they swap lead it elsewhere.
func relabelInside(path, label string) error {
	fd, err := openDir(unix.AT_FDCWD, path)
	if fd < 0 {
		return err
	}
	return relabelBelow(fd, path, label)
}

// relabelBelow labels what is in a directory, which it closes. path is for people.
func relabelBelow(fd int, path, label string) error {
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if err := relabelIn(fd, name, path+"/"+name, label); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// relabelIn does it for one name in a directory. One that is gone by now needs nothing.
func relabelIn(dir int, name, path, label string) error {
	err := kept(selinux.LsetFileLabel(fmt.Sprintf("/proc/self/fd/%d/%s", dir, name), label))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%q: %w", path, err)
	}
	fd, err := openDir(dir, name)
	if fd < 0 {
		return err
	}
	return relabelBelow(fd, path, label)
}

// openDir returns -1 for what is no directory, or is gone.
func openDir(dir int, name string) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOENT):
		return -1, nil
	}
	return -1, fmt.Errorf("opening %q: %w", name, err)
}

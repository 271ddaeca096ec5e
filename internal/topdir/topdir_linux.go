package topdir

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// flag is FS_TOPDIR_FL.
const flag = 0x20000

func mark(dir string) {
	_ = onFlags(dir, func(fd int, flags uint32) error {
		if flags&flag != 0 {
			return nil
		}
		return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|flag))
	})
}

func marked(dir string) (is bool, err error) {
	err = onFlags(dir, func(_ int, flags uint32) error {
		is = flags&flag != 0
		return nil
	})
	return is, err
}

func onFlags(dir string, f func(fd int, flags uint32) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return &os.PathError{Op: "FS_IOC_GETFLAGS", Path: dir, Err: err}
	}
	return f(fd, flags)
}

// unnamed creates a file in dir that has no name and vanishes when it is closed.
func unnamed(dir string, perm os.FileMode) (*os.File, error) {
	for {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(perm.Perm()))
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), dir), nil // one whose reads and writes never block
		case unix.EINTR:
		default:
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
	}
}

// name gives an unnamed file its name. open(2) shows it with this path; by descriptor
// alone it takes CAP_DAC_READ_SEARCH.
func name(f *os.File, path string) error {
	unnamed := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	err := unix.Linkat(unix.AT_FDCWD, unnamed, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err == nil {
		return nil
	}
	err = &os.LinkError{Op: "link", Old: unnamed, New: path, Err: err}
	if errors.Is(err, os.ErrExist) {
		return err
	}
	return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
}

package topdir

import (
	"os"

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

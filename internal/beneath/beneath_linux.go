// Package beneath opens files below a directory whose content somebody else may change at
// any time, and who must not be able to lead the opening elsewhere.
package beneath

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Open opens name, a path relative to dir, with the flags and the mode of openat(2), and
// close-on-exec. Only dir itself may be, or be behind, a symbolic link: one in name is
// unix.ELOOP, and a name that leads out of dir, by "..", is unix.EXDEV. It is safe for
// concurrent use.
func Open(dir, name string, flags int, mode uint32) (fd int, err error) {
	at, err := retry(func() (int, error) { return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	return retry(func() (int, error) { return unix.Openat2(at, name, how) })
}

// retry repeats what a signal has interrupted, or a rename anywhere on the machine.
func retry(open func() (int, error)) (fd int, err error) {
	for {
		fd, err = open()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

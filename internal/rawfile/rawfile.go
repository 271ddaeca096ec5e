// Package rawfile opens and reads small files, many of them in /proc and /sys, at
// lower cost. Package os tries to poll each file that it opens, and first sets up the
// poller if nothing else has; os.ReadFile also stats the file. That costs more than
// the read.
package rawfile

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Read returns the content of the file. Errors are *fs.PathError, as from
// os.ReadFile.
func Read(path string) ([]byte, error) {
	fd, err := OpenAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	const first = 512 // most are one line
	buf := make([]byte, 0, first)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return buf, nil
		default:
			if buf = buf[:len(buf)+n]; len(buf) == cap(buf) {
				buf = append(buf, make([]byte, cap(buf))...)[:len(buf)]
			}
		}
	}
}

// Open is os.OpenFile for a file whose reads and writes never block, such as regular
// files, directories and namespaces. With O_NONBLOCK opening does not block either,
// whatever is there. Errors are *fs.PathError.
func Open(path string, flags int, perm os.FileMode) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, uint32(perm.Perm()))
		switch err {
		case nil:
			if flags&unix.O_NONBLOCK != 0 {
				_ = unix.SetNonblock(fd, false) // by this flag package os decides whether to poll
			}
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR:
		default:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// OpenAt opens the file name in dir, a directory's descriptor, for reading and with
// the given additional flags. The error is an errno.
func OpenAt(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

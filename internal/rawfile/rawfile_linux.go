// Package rawfile reads many small files of /proc and /sys. os.ReadFile asks for
// each one's kind and size and tries to poll it, which costs more than the read.
package rawfile

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// Read returns what the file holds. Errors are *fs.PathError, as those of
// os.ReadFile are.
func Read(path string) ([]byte, error) {
	fd, err := OpenAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	const first = 512 // most are a line
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

// OpenAt opens what dir, a directory's descriptor, has by the name, for reading and
// with the further flags. The error is the kernel's number.
func OpenAt(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

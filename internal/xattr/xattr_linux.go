// Package xattr reads extended attributes, xattr(7), of any size. The meaning of the
// values, and which errors to ignore, are the caller's business: an image's layer is
// refused for less than a copy of a container's files.
package xattr

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"
)

// List returns the names of the attributes of an open file. For a file without any it
// returns none and no error; on a file system without attributes it fails with
// unix.ENOTSUP, for a file opened with O_PATH with unix.EBADF.
func List(fd int) ([]string, error) {
	return names(func(p []byte) (int, error) { return unix.Flistxattr(fd, p) })
}

// ListAt is List for a path, and follows a symbolic link.
func ListAt(path string) ([]string, error) {
	return names(func(p []byte) (int, error) { return unix.Listxattr(path, p) })
}

// Get returns an attribute of an open file. unix.ENODATA means that there is none,
// unix.ERANGE that it grew during the read.
func Get(fd int, name string) ([]byte, error) {
	return value(func(p []byte) (int, error) { return unix.Fgetxattr(fd, name, p) })
}

// GetAt is Get for a path, and follows a symbolic link.
func GetAt(path, name string) ([]byte, error) {
	return value(func(p []byte) (int, error) { return unix.Getxattr(path, name, p) })
}

func names(get func([]byte) (int, error)) ([]string, error) {
	list, err := value(get)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return strings.Split(string(bytes.TrimSuffix(list, []byte{0})), "\x00"), nil
}

// value asks for the size first.
func value(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	p := make([]byte, n)
	n, err = get(p)
	if err != nil {
		return nil, err
	}
	return p[:n], nil
}

package oci

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// nulls creates null devices for programs in containers. Root in a container may change
// the mode and owner of any file that it has a descriptor of, and with the host's
// /dev/null, that would be the host's own file. The zero value is ready.
type nulls struct {
	mu sync.Mutex
	at *os.File // a tmpfs that is mounted nowhere; nil until it is needed
}

// open returns a null device that is a file of its own, without a path.
func (n *nulls) open() (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at == nil {
		fd, err := mountNowhere("tmpfs")
		if err != nil {
			return nil, fmt.Errorf("mounting a file system for null devices: %w", err)
		}
		n.at = os.NewFile(uintptr(fd), "tmpfs")
	}
	const major, minor, name = 1, 3, "null" // null(4)
	dir := int(n.at.Fd())
	if err := unix.Mknodat(dir, name, unix.S_IFCHR, int(unix.Mkdev(major, minor))); err != nil {
		return nil, fmt.Errorf("making a null device: %w", err)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		// For every user of the container, regardless of this process's umask.
		if err = unix.Fchmod(fd, 0o666); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err = errors.Join(err, unix.Unlinkat(dir, name, 0)); err != nil {
		return nil, fmt.Errorf("making a null device: %w", err)
	}
	return os.NewFile(uintptr(fd), "null"), nil
}

// close releases the file system. Open devices remain usable.
func (n *nulls) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at == nil {
		return nil
	}
	err := n.at.Close()
	n.at = nil
	return err
}

// mountNowhere returns a detached mount of a file system of this type: a new instance, or
// that of the calling thread's namespace.
func mountNowhere(kind string) (fd int, err error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

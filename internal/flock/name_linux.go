package flock

import (
	"context"
	"hash/fnv"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// AcquireName is Acquire, Exclusive, for a name: one file can have locks for any
// number of names, and stays. The lock is on the byte whose offset is the 64-bit
// FNV-1a hash of the name, halved; a collision is not to be expected, and would only
// make two names wait for each other.
func AcquireName(ctx context.Context, path, name string) (*Lock, error) {
	return acquire(ctx, path, named(name))
}

// TryAcquireName is AcquireName without waiting: it returns nil and no error if
// somebody else has the lock.
func TryAcquireName(path, name string) (*Lock, error) { return try(path, named(name)) }

// named locks one byte of the file.
func named(name string) take {
	h := fnv.New64a()
	h.Write([]byte(name))
	at := int64(h.Sum64() >> 1)
	return func(f *os.File, wait bool) error {
		command := unix.F_OFD_SETLK
		if wait {
			command = unix.F_OFD_SETLKW
		}
		return unix.FcntlFlock(f.Fd(), command, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1})
	}
}

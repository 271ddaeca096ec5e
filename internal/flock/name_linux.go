package flock

import (
	"context"
	"hash/fnv"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// AcquireName is Acquire, Exclusive, for a name: there may be any number of them in
// one file, which stays. The lock is on the byte whose offset is the name's FNV-1a
// hash of 64 bits, halved; that two names share one has not to be feared, and would
// make them wait for each other.
func AcquireName(ctx context.Context, path, name string) (*Lock, error) {
	return acquire(ctx, path, named(name))
}

// TryAcquireName is AcquireName without waiting: it returns nil and no error when
// somebody else has the lock.
func TryAcquireName(path, name string) (*Lock, error) { return try(path, named(name)) }

// named locks a byte of it.
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

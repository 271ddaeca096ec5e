// Package flock takes locks that exclude goroutines as well as processes, and that
// the kernel releases when their process dies: on files (flock(2)), and on names in a
// file (F_OFD_SETLK of fcntl(2), on Linux). The two kinds do not exclude each other.
// Functions are safe for concurrent use.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// Lock is a lock that is held. It has an open file of its own.
type Lock struct{ file *os.File }

// How a lock is taken.
const (
	Shared    = unix.LOCK_SH
	Exclusive = unix.LOCK_EX
)

// Acquire waits for the lock on path, Shared or Exclusive, until ctx ends. The file
// is created if it does not exist; a directory works as well.
func Acquire(ctx context.Context, path string, how int) (*Lock, error) {
	return acquire(ctx, path, whole(how))
}

// TryAcquire returns nil and no error if somebody else has the lock.
func TryAcquire(path string, how int) (*Lock, error) { return try(path, whole(how)) }

// take locks an open file: it waits, or returns an error for which busy is true.
type take func(f *os.File, wait bool) error

// whole locks the file itself.
func whole(how int) take {
	return func(f *os.File, wait bool) error {
		flags := how
		if !wait {
			flags |= unix.LOCK_NB
		}
		return unix.Flock(int(f.Fd()), flags)
	}
}

func acquire(ctx context.Context, path string, t take) (*Lock, error) {
	l, err := try(path, t)
	if l != nil || err != nil {
		return l, err
	}
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		err = lock(f, t, true)
		close(done)
	}()
	select {
	case <-done:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), f.Close())
		}
		return &Lock{f}, nil
	case <-ctx.Done():
		go func() { // the wait cannot be canceled: close the file once it has the lock
			<-done
			_ = f.Close()
		}()
		return nil, fmt.Errorf("waiting for the lock on %q: %w", path, ctx.Err())
	}
}

func try(path string, t take) (*Lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = lock(f, t, false)
	if err == nil {
		return &Lock{f}, nil
	}
	if busy(err) {
		return nil, f.Close()
	}
	return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), f.Close())
}

// busy reports whether somebody else has the lock.
func busy(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) }

func openLock(path string) (*os.File, error) {
	f, err := rawfile.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EISDIR) {
		return rawfile.Open(path, os.O_RDONLY, 0)
	}
	return f, err
}

func lock(f *os.File, t take, wait bool) error {
	for {
		if err := t(f, wait); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Release releases the lock. Releasing a nil lock does nothing.
func (l *Lock) Release() {
	if l != nil {
		l.file.Close()
	}
}

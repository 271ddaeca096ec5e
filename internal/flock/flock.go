// Package flock takes locks that exclude goroutines as well as processes, and
// that the kernel frees when their process dies (flock(2)). Functions are safe
// for concurrent use.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Lock is a lock that is held. It has an open file of its own.
type Lock struct {
	file *os.File
	path string // of a file that goes with the lock, else ""
}

// How a lock is taken.
const (
	Shared    = unix.LOCK_SH
	Exclusive = unix.LOCK_EX
)

// Acquire waits for the lock on path, Shared or Exclusive, until ctx ends. The
// file is created when it is not there; a directory serves as well.
func Acquire(ctx context.Context, path string, how int) (*Lock, error) {
	l, err := TryAcquire(path, how)
	if l != nil || err != nil {
		return l, err
	}
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		err = flock(f, how)
		close(done)
	}()
	select {
	case <-done:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), f.Close())
		}
		return &Lock{file: f}, nil
	case <-ctx.Done():
		go func() { // flock cannot be given up: close the file once it has the lock
			<-done
			_ = f.Close()
		}()
		return nil, fmt.Errorf("waiting for the lock on %q: %w", path, ctx.Err())
	}
}

// TryAcquire returns nil and no error when somebody else has the lock.
func TryAcquire(path string, how int) (*Lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = flock(f, how|unix.LOCK_NB)
	if err == nil {
		return &Lock{file: f}, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), f.Close())
}

// AcquireTemporary is Acquire, Exclusive, on a file that Release removes, so
// that locks with many names leave no files. Everybody who locks the path must
// do so with this function: a holder may have removed the file that a waiter
// has open, and the waiter starts over then.
func AcquireTemporary(ctx context.Context, path string) (*Lock, error) {
	for {
		l, err := Acquire(ctx, path, Exclusive)
		if err != nil {
			return nil, err
		}
		if l.keepsTo(path) {
			return l, nil
		}
		l.Release()
	}
}

// TryAcquireTemporary is AcquireTemporary without waiting: it returns nil and no
// error when somebody else has the lock.
func TryAcquireTemporary(path string) (*Lock, error) {
	for {
		l, err := TryAcquire(path, Exclusive)
		if l == nil || err != nil || l.keepsTo(path) {
			return l, err
		}
		l.Release()
	}
}

// keepsTo makes the path the lock's own if its file is still there.
func (l *Lock) keepsTo(path string) bool {
	mine, err := l.file.Stat()
	there, terr := os.Stat(path)
	if err != nil || terr != nil || !os.SameFile(mine, there) {
		return false
	}
	l.path = path
	return true
}

func openLock(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return os.Open(path)
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Release frees the lock. A nil lock is not held.
func (l *Lock) Release() {
	if l == nil {
		return
	}
	if l.path != "" {
		os.Remove(l.path) // while the lock is held, so that nobody else's goes
	}
	l.file.Close()
}

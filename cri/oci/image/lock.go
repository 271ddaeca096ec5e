package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock is a held flock(2). Each lock has an open file of its own, so it
// excludes other goroutines as well as other processes, and the kernel frees it
// when the process dies.
type lock struct{ file *os.File }

// acquire waits for the lock on path, unix.LOCK_SH or unix.LOCK_EX, until ctx
// ends. The file is created when it is not there; a directory serves as well.
func acquire(ctx context.Context, path string, how int) (*lock, error) {
	l, err := tryAcquire(path, how)
	if l != nil || err != nil {
		return l, err
	}
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- flock(f, how) }()
	select {
	case err := <-done:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), f.Close())
		}
		return &lock{f}, nil
	case <-ctx.Done():
		go func() { // flock cannot be given up: close the file once it has the lock
			<-done
			f.Close()
		}()
		return nil, fmt.Errorf("waiting for the lock on %q: %w", path, ctx.Err())
	}
}

// tryAcquire returns nil and no error when somebody else has the lock.
func tryAcquire(path string, how int) (*lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = flock(f, how|unix.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), f.Close())
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

// release frees the lock. A nil lock is not held.
func (l *lock) release() {
	if l != nil {
		l.file.Close()
	}
}

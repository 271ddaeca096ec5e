package log

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// safetyNet is how often a follower looks without having been told, for file
// systems that send no events.
const safetyNet = 2 * time.Second

// watcher tells when something changed in a directory (inotify(7)).
type watcher struct {
	f    *os.File
	wake chan struct{}
}

func watch(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("starting inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // in the poller: Close ends a Read
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		return nil, errors.Join(fmt.Errorf("watching %q: %w", dir, err), f.Close())
	}
	w := &watcher{f: f, wake: make(chan struct{}, 1)}
	go w.read()
	return w, nil
}

// read turns any number of events into one wake-up. What changed is not of
// interest: the reader looks itself.
func (w *watcher) read() {
	buf := make([]byte, 4096)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Wait returns nil when something changed or ended is closed, or when it is
// time to look again, and the context's error when that ended.
func (w *watcher) Wait(ctx context.Context, ended <-chan struct{}) error {
	t := time.NewTimer(safetyNet)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.wake:
	case <-ended:
	case <-t.C:
	}
	return nil
}

// Close ends the watch and its goroutine.
func (w *watcher) Close() error { return w.f.Close() }

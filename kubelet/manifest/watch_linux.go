package manifest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What is watched. A file counts as changed when its writer closes it: with inotify
// libraries that report every write, half a file would be read.
const interest = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watch delivers the names of changed files in dir until ctx ends. An empty list means
// that events were lost, and every file must be checked.
func watch(ctx context.Context, dir string, log *slog.Logger) <-chan []string {
	changes := make(chan []string)
	begin := func() *os.File {
		f, err := inotify(dir)
		if err != nil {
			log.Warn("watching the manifest directory", "err", err)
		}
		return f
	}
	first := begin() // before the first listing, so that nothing is missed
	go func() {
		for f := first; ctx.Err() == nil; f = begin() {
			if f != nil {
				stop := context.AfterFunc(ctx, func() { f.Close() })
				readEvents(ctx, f, changes)
				stop()
				f.Close()
			}
			// The directory is gone, or cannot be watched at the moment.
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			send(ctx, changes, nil)
		}
	}()
	return changes
}

func inotify(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("opening inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, interest); err != nil {
		f.Close()
		return nil, fmt.Errorf("watching %q: %w", dir, err)
	}
	return f, nil
}

// readEvents returns when the directory has disappeared or the watch was closed.
func readEvents(ctx context.Context, f *os.File, changes chan<- []string) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.Read(buffer)
		if err != nil {
			return
		}
		names, alive := parseEvents(buffer[:n])
		if !alive || !send(ctx, changes, names) {
			return
		}
	}
}

// parseEvents returns the names in a block of events, none if some were lost, and
// whether the watch is still valid.
func parseEvents(b []byte) (names []string, alive bool) {
	alive = true
	lost := false
	seen := map[string]bool{}
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		size := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		name := string(bytes.TrimRight(b[:size], "\x00"))
		b = b[size:]
		if mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 {
			alive = false
		}
		lost = lost || mask&unix.IN_Q_OVERFLOW != 0
		if name != "" && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	if lost {
		return nil, alive
	}
	return names, alive
}

func send(ctx context.Context, changes chan<- []string, names []string) bool {
	select {
	case changes <- names:
		return true
	case <-ctx.Done():
		return false
	}
}

// Package warm keeps the kernel's lock for moving processes between cgroups warm.
//
// The first write to any cgroup.procs after some milliseconds of rest waits for an RCU
// grace period, 5 to 15 ms, and whoever forks meanwhile waits for it; the next ones
// within about 10 ms take microseconds (measured). An OCI runtime forks and makes such a
// write in the middle of its work. So whoever is about to execute one makes a write that
// changes nothing, as early as it knows, and one every few milliseconds for a while.
//
// Where the first write waits for nothing, as with expedited grace periods
// (/sys/kernel/rcu_expedited) or cgroups mounted with favordynmods, there is nothing to
// keep warm, and further ones only hold up what the runtime forks: runc takes 7 of
// 100 ms longer with them.
package warm

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// every is well below the time after which the lock is cold again, coldAfter well
	// above. A write that waits for nothing takes less than quick.
	every     = 4 * time.Millisecond
	coldAfter = 50 * time.Millisecond
	quick     = time.Millisecond
	// enough is how long a call of Keep lasts: from the making of a sandbox to the
	// start of its container, where the image is there.
	enough = 100 * time.Millisecond
)

// Lock is the kernel's lock. It is safe for concurrent use.
type Lock struct {
	open func() (io.WriteCloser, error) // a cgroup.procs of this process's own cgroup

	mu      sync.Mutex
	until   time.Time // when the last call's time is over
	running bool
	last    time.Time // when the last write was
	waits   bool      // what the last one after a rest did
}

// New returns the lock. Nothing happens before Keep is called.
func New() *Lock {
	return &Lock{open: func() (io.WriteCloser, error) {
		// Each time: a write to another cgroup's would move the process.
		file := ownProcs("/proc/self/cgroup", "/sys/fs/cgroup")
		if file == "" {
			return nil, errors.ErrUnsupported
		}
		return os.OpenFile(file, os.O_WRONLY, 0)
	}}
}

// Keep warms the lock and keeps it warm for a while, in the background. Another call
// prolongs that. What cannot be done is left undone: it only costs time.
func (l *Lock) Keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Now().Add(enough)
	if !l.running {
		l.running = true
		go l.run()
	}
}

func (l *Lock) run() {
	f, err := l.open()
	if err != nil {
		l.rest()
		return
	}
	defer f.Close()
	for l.write(f) {
		time.Sleep(every)
	}
}

func (l *Lock) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
}

// write writes, and reports whether there is more to do: the kernel is one that waits,
// and the time is not over.
func (l *Lock) write(f io.Writer) bool {
	began := time.Now()
	_, err := io.WriteString(f, "0") // the writer itself
	ended := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if began.Sub(l.last) > coldAfter {
		l.waits = ended.Sub(began) >= quick
	}
	l.last = ended
	l.running = err == nil && l.waits && ended.Before(l.until)
	return l.running
}

// ownProcs returns a cgroup.procs of the cgroup that this process is in, of
// whichever hierarchy is found first below mounts: the lock is the same. It is ""
// when none is found. list is the process's /proc/self/cgroup.
func ownProcs(list, mounts string) string {
	raw, err := os.ReadFile(list)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		// "4:memory:/a/b" on v1, "0::/a/b" on v2
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		file := filepath.Join(mounts, strings.TrimPrefix(fields[1], "name="), fields[2], "cgroup.procs")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

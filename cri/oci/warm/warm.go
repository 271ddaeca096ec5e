// Package warm keeps the kernel's lock for moving processes between cgroups warm.
//
// The first write to any cgroup.procs after some milliseconds of rest waits for an RCU
// grace period, 5 to 15 ms, and whoever forks meanwhile waits for it; the next ones
// within about 10 ms take microseconds (measured). An OCI runtime forks and makes such a
// write in the middle of its work. So whoever is about to execute one makes a write that
// changes nothing, as early as it knows, and one every few milliseconds for a while.
//
// What is written is a thread of this process, to the list of its own cgroup's threads,
// which takes the same lock. The thread is there for that alone: whoever moves the
// process to another cgroup meanwhile, as systemd does, would find it back where it was
// if the process were written. A wrong list harms nobody either, such as that of the host
// where a container sees its cgroups: v2 refuses, and on v1 the thread is soon at its end.
//
// Where the first write waits for nothing, as with expedited grace periods
// (/sys/kernel/rcu_expedited) or cgroups mounted with favordynmods, there is nothing to
// keep warm, and further ones only hold up what the runtime forks: runc takes 7 of
// 100 ms longer with them.
package warm

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/rawfile"
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
	touch func() error // takes the lock once

	mu      sync.Mutex
	until   time.Time // when the last call's time is over
	running bool
	last    time.Time // when the last write was
	waits   bool      // what the last one after a rest did
}

// New returns the lock. Nothing happens before Keep is called.
func New() *Lock {
	return &Lock{touch: func() error { return writeSelf("/proc/self/cgroup", "/sys/fs/cgroup") }}
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
	_ = nspin.OnThrowAwayThread(func() error {
		for l.write() {
			time.Sleep(every)
		}
		return nil
	})
}

// write writes, and reports whether there is more to do: the kernel is one that waits,
// and the time is not over.
func (l *Lock) write() bool {
	began := time.Now()
	err := l.touch()
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

// writeSelf puts the calling thread into the cgroup that its process is in. That is
// looked up each time, so that the thread follows the process.
func writeSelf(list, mounts string) error {
	file := ownTasks(list, mounts)
	if file == "" {
		return errors.ErrUnsupported
	}
	f, err := rawfile.Open(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(unix.Gettid())) // "0", for the writer, takes no lock
	return errors.Join(err, f.Close())
}

// ownTasks returns the list of the threads in the cgroup that this process is in, of
// whichever hierarchy is found first below mounts: the lock is the same. It is ""
// when none is found. list is the process's /proc/self/cgroup.
func ownTasks(list, mounts string) string {
	raw, err := rawfile.Read(list)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		// "4:memory:/a/b" on v1, "0::/a/b" on v2
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		name := "tasks"
		if fields[1] == "" {
			name = "cgroup.threads"
		}
		file := filepath.Join(mounts, strings.TrimPrefix(fields[1], "name="), fields[2], name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

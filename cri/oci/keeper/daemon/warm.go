package daemon

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// warmer keeps the kernel's cgroup attach lock warm while the OCI runtime
// runs. The first write to any cgroup.procs after some milliseconds of rest
// waits for an RCU grace period, 5 to 15 ms; the next ones within about 10 ms
// take microseconds (measured). A runtime makes such a write in the middle of
// its work, so the keeper makes one, which changes nothing, at its beginning
// and every few milliseconds until it ends or has taken long. Of starts that
// overlap the first is kept warm, and the others keep each other so.
//
// Where the first write waits for nothing, as with expedited grace periods
// (/sys/kernel/rcu_expedited) or cgroups mounted with favordynmods, there is
// nothing to keep warm, and further ones only hold up what the runtime forks:
// runc takes 7 of 100 ms longer with them.
type warmer struct {
	open func() (io.WriteCloser, error) // a cgroup.procs of the keeper's own cgroup; nil does nothing

	mu    sync.Mutex
	users int
	stop  chan struct{}
	last  time.Time // when the last write was
	waits bool      // what the last one after a rest did
}

// warmEvery is well below the time after which the lock is cold again, coldAfter
// well above, and warmFor bounds the effort for a runtime that takes long. A write
// that waits for nothing takes less than quick.
const (
	warmEvery = 4 * time.Millisecond
	coldAfter = 50 * time.Millisecond
	warmFor   = 100 * time.Millisecond
	quick     = time.Millisecond
)

// newWarmer returns the one that writes to the file; "" is none.
func newWarmer(file string) *warmer {
	if file == "" {
		return &warmer{}
	}
	return &warmer{open: func() (io.WriteCloser, error) { return os.OpenFile(file, os.O_WRONLY, 0) }}
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

// warm begins and returns the function that ends it.
func (w *warmer) warm() (end func()) {
	if w.open == nil {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users++; w.users == 1 {
		w.stop = make(chan struct{})
		go w.run(w.stop)
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.users--; w.users == 0 {
			close(w.stop)
		}
	}
}

// run returns early where something fails: it only costs time.
func (w *warmer) run(stop <-chan struct{}) {
	f, err := w.open()
	if err != nil {
		return
	}
	defer f.Close()
	if waits, err := w.write(f); err != nil || !waits {
		return
	}
	tick := time.NewTicker(warmEvery)
	defer tick.Stop()
	limit := time.NewTimer(warmFor)
	defer limit.Stop()
	for {
		select {
		case <-tick.C:
		case <-limit.C:
			return
		case <-stop:
			return
		}
		if _, err := w.write(f); err != nil {
			return
		}
	}
}

// write writes, and reports whether the kernel is one that waits: what was seen the
// last time that a write came after a rest.
func (w *warmer) write(f io.Writer) (waits bool, err error) {
	began := time.Now()
	_, err = io.WriteString(f, "0") // the writer itself
	ended := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if began.Sub(w.last) > coldAfter {
		w.waits = ended.Sub(began) >= quick
	}
	w.last = ended
	return w.waits, err
}

package daemon

import (
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
// and every few milliseconds until it ends.
type warmer struct {
	file string // a cgroup.procs of the keeper's own cgroup; "" does nothing

	mu    sync.Mutex
	users int
	stop  chan struct{}
}

// warmEvery is well below the time after which the lock is cold again, and
// warmFor bounds the effort for a runtime that takes long.
const (
	warmEvery = 4 * time.Millisecond
	warmFor   = 100 * time.Millisecond
)

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
	if w.file == "" {
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

func (w *warmer) run(stop <-chan struct{}) {
	f, err := os.OpenFile(w.file, os.O_WRONLY, 0)
	if err != nil {
		return // it only costs time
	}
	defer f.Close()
	tick := time.NewTicker(warmEvery)
	defer tick.Stop()
	limit := time.NewTimer(warmFor)
	defer limit.Stop()
	for {
		if _, err := f.WriteString("0"); err != nil { // 0 is the writer itself
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return
		case <-stop:
			return
		}
	}
}

package image

import (
	"sync"
	"time"
)

// measurements caches the sizes of directories that containers write to. Walking one
// takes time proportional to its content, and a kubelet asks every few seconds: a size is
// returned again as long as measuring it anew would take more than a tenth of the time.
// The zero value is ready.
type measurements struct {
	mu  sync.Mutex
	all map[string]*measurement
}

// measurement is that of one directory.
type measurement struct {
	mu   sync.Mutex // held while it is measured: others wait for the result
	last taken      // its time is zero before the first measurement
	cost time.Duration
}

// taken is the disk usage of something at a given time.
type taken struct {
	bytes, inodes uint64
	at            time.Time
}

// restBetween is for how many times the duration of its measurement a size is valid.
const restBetween = 9

// usage returns the disk usage of the tree at dir. A directory that no longer exists uses
// nothing.
func (ms *measurements) usage(dir string) (taken, error) {
	ms.mu.Lock()
	if ms.all == nil {
		ms.all = map[string]*measurement{}
	}
	have := ms.all[dir]
	if have == nil {
		have = &measurement{}
		ms.all[dir] = have
	}
	ms.mu.Unlock()
	have.mu.Lock()
	defer have.mu.Unlock()
	if have.last.at.IsZero() || time.Since(have.last.at) > restBetween*have.cost {
		begun := time.Now()
		bytes, inodes, err := diskUsage(dir)
		if err != nil {
			return taken{}, err
		}
		have.last = taken{bytes, inodes, time.Now()}
		have.cost = have.last.at.Sub(begun)
		if inodes == 0 { // it was removed, perhaps after it was forgotten
			ms.forget(dir)
		}
	}
	return have.last, nil
}

// forget is called when a directory was removed.
func (ms *measurements) forget(dir string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.all, dir)
}

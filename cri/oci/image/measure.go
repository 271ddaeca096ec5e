package image

import (
	"sync"
	"time"
)

// measurements are of directories that containers write to. Walking one costs
// what is in it, and a kubelet asks every few seconds for ever: a figure is
// given again as long as measuring anew would take more than a tenth of the
// time. The zero value is ready.
type measurements struct {
	mu  sync.Mutex
	all map[string]*measurement
}

// measurement is of one directory.
type measurement struct {
	mu   sync.Mutex // held while it is measured: others wait for the figure
	last taken      // its time is zero before the first
	cost time.Duration
}

// taken is what something takes, and when that was true.
type taken struct {
	bytes, inodes uint64
	at            time.Time
}

// restBetween is how many times as long as it took a figure is good for.
const restBetween = 9

// usage returns what the tree at dir takes. One that is gone takes nothing.
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
		if inodes == 0 { // it went away, maybe after it was forgotten
			ms.forget(dir)
		}
	}
	return have.last, nil
}

// forget is for a directory that is gone.
func (ms *measurements) forget(dir string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.all, dir)
}

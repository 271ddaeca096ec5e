package csi

import (
	"sync"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// locks prevents overlapping operations. It never waits: the specification's answer to
// an overlap is ABORTED, and the orchestrator retries. A lock belongs to the operation,
// not to the RPC, so it is held until the work ends, even if the caller has given up.
type locks struct {
	mu   sync.Mutex
	held map[string]int // -1 for one exclusive holder, n > 0 for n shared holders
}

// claim is a lock that an operation needs.
type claim struct {
	key    string
	shared bool
}

func onName(name string) claim        { return claim{key: "name " + name} }
func onVolume(id string) claim        { return claim{key: "volume " + id} }
func withinVolume(id string) claim    { return claim{key: "volume " + id, shared: true} }
func onTarget(path string) claim      { return claim{key: "target " + path} }
func (c claim) free(holders int) bool { return holders == 0 || c.shared && holders > 0 }

// acquire takes all the claims or none, and returns a function that releases them. It
// fails with fault.Aborted.
func (l *locks) acquire(claims ...claim) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range claims {
		if !c.free(l.held[c.key]) {
			return nil, fault.Aborted.Errorf("an operation on %s is still going on: try again", c.key)
		}
	}
	if l.held == nil {
		l.held = map[string]int{}
	}
	for _, c := range claims {
		if c.shared {
			l.held[c.key]++
		} else {
			l.held[c.key] = -1
		}
	}
	return func() { l.release(claims) }, nil
}

// busy reports whether an operation holds the claim's key.
func (l *locks) busy(c claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[c.key] != 0
}

func (l *locks) release(claims []claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range claims {
		if c.shared {
			l.held[c.key]--
		} else {
			l.held[c.key] = 0
		}
		if l.held[c.key] == 0 {
			delete(l.held, c.key)
		}
	}
}

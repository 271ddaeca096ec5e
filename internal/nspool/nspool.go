// Package nspool keeps what a process that stays has opened in a network namespace,
// such as netlink sockets, for its next call in the same one.
package nspool

import (
	"sync"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// Max is how much a Pool keeps: more calls at once only wait for the kernel's locks.
const Max = 8

// Pool keeps things that belong to one call at a time. A nil Pool keeps nothing. It is
// safe for concurrent use, and is not copied after its first.
type Pool[T any] struct {
	mu     sync.Mutex
	kept   []entry[T]
	closed bool
}

type entry[T any] struct {
	ns netns.ID
	it T
}

// Take takes out what was opened in the namespace and put in last, if anything was.
func (p *Pool[T]) Take(ns netns.ID) (it T, ok bool) {
	if p == nil {
		return it, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.kept) - 1; i >= 0; i-- {
		if e := p.kept[i]; e.ns == ns {
			last := len(p.kept) - 1
			p.kept[i], p.kept[last] = p.kept[last], entry[T]{}
			p.kept = p.kept[:last]
			return e.it, true
		}
	}
	return it, false
}

// Put keeps it, or reports that the caller has to close it: there is enough, or the
// pool is closed.
func (p *Pool[T]) Put(ns netns.ID, it T) bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.kept) >= Max {
		return false
	}
	p.kept = append(p.kept, entry[T]{ns, it})
	return true
}

// Close empties the pool for good and returns what the caller has to close. A second
// call returns nothing.
func (p *Pool[T]) Close() (rest []T) {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.kept {
		rest = append(rest, e.it)
	}
	p.kept, p.closed = nil, true
	return rest
}

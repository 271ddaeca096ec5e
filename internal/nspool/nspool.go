// Package nspool keeps what a process that stays has opened in a network namespace,
// such as netlink sockets, for its next call in the same one.
package nspool

import (
	"slices"
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
			p.kept = slices.Delete(p.kept, i, i+1)
			return e.it, true
		}
	}
	return it, false
}

// Put keeps it, and returns what the caller has to close, if anything: the same, where
// the pool is closed or has enough for the namespace, or what was put in first of those
// for others, which may be gone and live on by it alone.
func (p *Pool[T]) Put(ns netns.ID, it T) (over T, full bool) {
	if p == nil {
		return it, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return it, true
	}
	if len(p.kept) == Max {
		i := slices.IndexFunc(p.kept, func(e entry[T]) bool { return e.ns != ns })
		if i < 0 {
			return it, true
		}
		over, full = p.kept[i].it, true
		p.kept = slices.Delete(p.kept, i, i+1)
	}
	p.kept = append(p.kept, entry[T]{ns, it})
	return over, full
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

// Package nspool keeps what a long-running process has opened in a network namespace,
// such as netlink sockets, for its next call in the same namespace.
package nspool

import (
	"slices"
	"sync"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// Max is how many things a Pool keeps: more concurrent calls would only wait for the
// kernel's locks.
const Max = 8

// Pool keeps things that belong to one call at a time. A nil Pool keeps nothing. It
// is safe for concurrent use, and must not be copied after first use.
type Pool[T any] struct {
	mu     sync.Mutex
	kept   []entry[T]
	closed bool
}

type entry[T any] struct {
	ns netns.ID
	it T
}

// Here returns the namespace of the calling goroutine's thread, for Take and Put. A nil
// Pool does not ask which that is.
func (p *Pool[T]) Here() (netns.ID, error) {
	if p == nil {
		return netns.ID{}, nil
	}
	return netns.CurrentID()
}

// Take removes and returns the thing opened in the namespace that was put in last, if
// any.
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

// Put keeps it, and returns what the caller must close, if anything: the same thing,
// if the pool is closed or has enough for the namespace, or the oldest of those for
// other namespaces, which may be gone and kept alive only by it.
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

// Close closes the pool for good and returns what the caller must close. A second
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

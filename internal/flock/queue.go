package flock

import (
	"context"
	"sync"
)

// Queue admits goroutines of this process one at a time per key, in the order of
// their arrival, before they ask the kernel for a lock: waiting here takes no thread
// and no system call. The zero value is ready to use.
type Queue struct {
	mu   sync.Mutex
	last map[string]chan struct{} // of the goroutine that came last; closed when it has left
}

// Enter waits for the key's turn until ctx ends. The caller must call leave once.
func (q *Queue) Enter(ctx context.Context, key string) (leave func(), err error) {
	mine := make(chan struct{})
	q.mu.Lock()
	if q.last == nil {
		q.last = map[string]chan struct{}{}
	}
	before := q.last[key]
	q.last[key] = mine
	q.mu.Unlock()
	done := func() {
		q.mu.Lock()
		if q.last[key] == mine {
			delete(q.last, key)
		}
		q.mu.Unlock()
		close(mine)
	}
	if before == nil {
		return done, nil
	}
	select {
	case <-before:
		return done, nil
	case <-ctx.Done():
		go func() { // later goroutines still wait for the earlier ones
			<-before
			done()
		}()
		return nil, context.Cause(ctx)
	}
}

package flock

import (
	"context"
	"sync"
)

// Queue lets goroutines of this process through one at a time for each key, in the
// order in which they came, before they ask the kernel for a lock: waiting here takes
// no thread and no system call. The zero value is ready.
type Queue struct {
	mu   sync.Mutex
	last map[string]chan struct{} // of the goroutine that came last; closed when it has left
}

// Enter waits for the key's turn, until ctx ends. The caller calls leave once.
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
		go func() { // whoever comes behind waits for those before
			<-before
			done()
		}()
		return nil, context.Cause(ctx)
	}
}

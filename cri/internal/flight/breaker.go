package flight

import (
	"context"
	"sync"
)

// Breaker ends a piece of work that others need not wait for. One piece at a
// time: its callers take turns (a Gate). The zero Breaker is ready to use.
type Breaker struct {
	mu    sync.Mutex
	end   context.CancelCauseFunc // of the work under way, or nil
	wants int                     // those who want it to end
	why   error
}

// Guard returns a context for a piece of work, which Break ends. done must be
// called after the work.
func (b *Breaker) Guard(ctx context.Context) (guarded context.Context, done func()) {
	guarded, end := context.WithCancelCause(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = end
	if b.wants > 0 {
		end(b.why)
	}
	return guarded, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.end = nil
		end(context.Canceled)
	}
}

// Break ends the work under way, and any that begins before over is called.
// why is the cause of the context's end.
func (b *Breaker) Break(why error) (over func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wants++
	b.why = why
	if b.end != nil {
		b.end(why)
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.wants--
	}
}

package flight

import (
	"context"
	"sync"
)

// Breaker cancels work that others need not wait for. Only one piece of work runs at a
// time: callers take turns (a Gate). The zero Breaker is ready to use.
type Breaker struct {
	mu    sync.Mutex
	end   context.CancelCauseFunc // cancels the work in progress, or nil
	wants int                     // how many want it to end
	why   error
}

// Guard returns a context for a piece of work, which Break cancels. done must be called
// after the work.
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

// Break cancels the work in progress, and any that begins before over is called. why is
// the cause of the cancellation.
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

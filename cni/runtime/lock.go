package runtime

import (
	"context"
	"errors"
	"sync"
	"syscall"
)

// locks serialises operations by key: those of one container exclude each other
// (CNI 1.1.0, section 3: "must not invoke parallel operations for the same
// container"). The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the holder is done
}

// lock waits for the key and returns its unlock.
func (l *locks) lock(ctx context.Context, key string) (unlock func(), err error) {
	mine := make(chan struct{})
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[string]chan struct{}{}
		}
		theirs, busy := l.held[key]
		if !busy {
			l.held[key] = mine
		}
		l.mu.Unlock()
		if !busy {
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		select {
		case <-theirs:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func isNotEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
}

package image

import (
	"context"
	"sync"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/panics"
)

// pullFunc does the work of a pull and returns the image's id.
type pullFunc func(ctx context.Context, report func(Progress)) (id string, err error)

// flights lets concurrent calls with the same key share the work. The zero value is
// ready.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

// flight is work in progress. It has a context of its own, which ends when nobody waits
// for it any more.
type flight struct {
	cancel  context.CancelFunc
	waiting int
	watch   []func(Progress)
	done    chan struct{}
	id      string
	err     error
}

// do runs work, or joins an earlier call with the same key, and returns its result.
// progress, if not nil, is called by one goroutine at a time until do returns.
func (fs *flights) do(ctx context.Context, key string, progress func(Progress), work pullFunc) (string, error) {
	f, slot := fs.join(ctx, key, progress, work)
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		fs.leave(key, f, slot)
		return "", ctx.Err()
	}
}

func (fs *flights) join(ctx context.Context, key string, progress func(Progress), work pullFunc) (f *flight, slot int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f = fs.byKey[key]
	if f == nil {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{cancel: cancel, done: make(chan struct{})}
		if fs.byKey == nil {
			fs.byKey = map[string]*flight{}
		}
		fs.byKey[key] = f
		go fs.run(own, key, f, work)
	}
	f.waiting++
	f.watch = append(f.watch, progress)
	return f, len(f.watch) - 1
}

func (fs *flights) run(ctx context.Context, key string, f *flight, work pullFunc) {
	defer f.cancel()
	f.err = guarded(func() (err error) {
		f.id, err = work(ctx, func(p Progress) { fs.report(f, p) })
		return err
	})
	fs.mu.Lock()
	if fs.byKey[key] == f {
		delete(fs.byKey, key)
	}
	f.watch = nil
	fs.mu.Unlock()
	close(f.done)
}

// guarded turns a panic into an error. A malicious layer may cause one in a decompressor,
// which must not affect the other containers of the machine.
func guarded(work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fault.Internal.Errorf("it panicked: %v", panics.Of(p))
		}
	}()
	return work()
}

func (fs *flights) report(f *flight, p Progress) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, watch := range f.watch {
		if watch != nil {
			watch(p)
		}
	}
}

// leave stops waiting. The last caller to leave ends the work; a later call starts it
// anew.
func (fs *flights) leave(key string, f *flight, slot int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if slot < len(f.watch) {
		f.watch[slot] = nil
	}
	f.waiting--
	if f.waiting == 0 {
		f.cancel()
		if fs.byKey[key] == f {
			delete(fs.byKey, key)
		}
	}
}

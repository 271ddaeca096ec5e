// Package flight runs the calls that change something: detached from the client, at most
// one creation of the same thing at a time (Group); one after the other for one sandbox
// (Gate); and a stop by the earliest deadline of its callers (Deadline).
//
// It calls functions of an author, who must neither end the server by a panic nor leave a
// call without an answer (Guard). The package knows nothing of containers. Its types are
// safe for concurrent use.
package flight

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/panics"
)

// Group has the calls that are in progress. NewGroup creates it.
type Group struct {
	base context.Context

	mu      sync.Mutex
	flights map[string]*flight
	calls   sync.WaitGroup // Add only with mu held and closed false
	closed  bool
}

type flight struct {
	done chan struct{}
	id   string
	err  error
}

// NewGroup returns a group whose calls get the context base.
func NewGroup(base context.Context) *Group {
	return &Group{base: base, flights: map[string]*flight{}}
}

// Go runs f in the group, or returns fault.Unavailable after Close.
func (g *Group) Go(f func(context.Context)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.start(f)
}

// start requires g.mu to be held.
func (g *Group) start(f func(context.Context)) error {
	if g.closed {
		return fault.Unavailable.Errorf("the server is stopping")
	}
	g.calls.Go(func() { f(g.base) })
	return nil
}

// Do runs f to completion, even if the client stops waiting for it, which then gets the
// error of its context.
func (g *Group) Do(client context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	if err := g.Go(func(ctx context.Context) { done <- f(call.WithTrace(ctx, call.TraceFrom(client))) }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-client.Done():
		return client.Err()
	}
}

// Join is Do for a creation that returns an id: if one with the same key is in progress,
// Join waits for that.
func (g *Group) Join(client context.Context, key string, create func(context.Context) (id string, err error)) (string, error) {
	f, err := g.flight(key, func(ctx context.Context) (string, error) {
		return create(call.WithTrace(ctx, call.TraceFrom(client)))
	})
	if err != nil {
		return "", err
	}
	select {
	case <-f.done:
		return f.id, f.err
	case <-client.Done():
		return "", client.Err()
	}
}

func (g *Group) flight(key string, create func(context.Context) (string, error)) (*flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.flights[key]; f != nil {
		return f, nil
	}
	f := &flight{done: make(chan struct{})}
	err := g.start(func(ctx context.Context) {
		f.id, f.err = create(ctx)
		g.mu.Lock()
		delete(g.flights, key)
		g.mu.Unlock()
		close(f.done)
	})
	if err != nil {
		return nil, err
	}
	g.flights[key] = f
	return f, nil
}

// Close refuses new calls and waits for those in progress. A call that started after it
// would act for a server that is gone.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.calls.Wait()
}

// Guard calls a function of the author on a goroutine of its own, which it may end
// (runtime.Goexit, which t.FailNow calls): this becomes an error, too. A panic becomes an
// error that says where it happened; the stack is logged. An error whose methods panic is
// replaced, so that nothing panics later.
func Guard(log *slog.Logger, name string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := fmt.Errorf("%s ended its goroutine instead of returning (runtime.Goexit)", name) // unless it returns
		defer func() { done <- err }()
		err = protect(log, name, f)
	}()
	return <-done
}

func protect(log *slog.Logger, name string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p := panics.Of(v)
			log.Error("the runtime panicked", "function", name, "panic", p.Value, "stack", p.Stack())
			err = fmt.Errorf("%s panicked at %s: %v", name, p.Place(), p.Value)
		}
	}()
	return fault.Readable(name, f())
}

package flight

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// longest keeps a number of seconds from a client within a Duration.
const longest = 100 * 365 * 24 * time.Hour

// Seconds returns the duration that a client requests; a negative one is zero.
func Seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), int64(longest/time.Second))) * time.Second
}

// everybody is the weight of a call that needs the gate exclusively.
const everybody = 1 << 20

// Gate orders calls, first come first served: a call passes it alone, or together with
// others that share it. NewGate creates it.
type Gate struct{ s *semaphore.Weighted }

// NewGate returns an open gate.
func NewGate() Gate { return Gate{semaphore.NewWeighted(everybody)} }

// Alone waits until no call is inside, or returns the error of ctx when that ends. leave
// must be called once.
func (g Gate) Alone(ctx context.Context) (leave func(), err error) { return g.pass(ctx, everybody) }

// Share waits until nobody is inside alone. Otherwise it is like Alone.
func (g Gate) Share(ctx context.Context) (leave func(), err error) { return g.pass(ctx, 1) }

// TryShare is Share if that need not wait. Otherwise ok is false.
func (g Gate) TryShare() (leave func(), ok bool) { return g.try(1) }

// TryAlone is Alone if that need not wait. Otherwise ok is false.
func (g Gate) TryAlone() (leave func(), ok bool) { return g.try(everybody) }

func (g Gate) try(weight int64) (func(), bool) {
	if !g.s.TryAcquire(weight) {
		return nil, false
	}
	return func() { g.s.Release(weight) }, true
}

func (g Gate) pass(ctx context.Context, weight int64) (func(), error) {
	if err := g.s.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	return func() { g.s.Release(weight) }, nil
}

// Deadline is the time by which something must be done, set by several callers: the
// earliest counts, even for an attempt in progress. The zero Deadline is ready to use and
// has no time.
type Deadline struct {
	mu        sync.Mutex
	by        time.Time
	interrupt context.CancelFunc // interrupts the attempt in progress
}

// Hasten moves the deadline to t if that is earlier, and interrupts an attempt that was
// given more time.
func (d *Deadline) Hasten(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.by.IsZero() && !t.Before(d.by) {
		return
	}
	d.by = t
	if d.interrupt != nil {
		d.interrupt()
	}
}

// Meet hastens the deadline to by and calls attempt with it, and again with an earlier
// one if attempt was interrupted and failed. Callers take turns (a Gate); Hasten may be
// called at any time. After a failure there is no deadline, so a later caller gets the
// time that it requests.
func (d *Deadline) Meet(ctx context.Context, by time.Time, attempt func(ctx context.Context, by time.Time) error) error {
	d.Hasten(by)
	for {
		hastened, err := d.once(ctx, attempt)
		if err == nil {
			return nil
		}
		if !hastened || ctx.Err() != nil {
			d.mu.Lock()
			d.by = time.Time{}
			d.mu.Unlock()
			return err
		}
	}
}

func (d *Deadline) once(ctx context.Context, attempt func(context.Context, time.Time) error) (hastened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	by := d.by
	d.interrupt = cancel
	d.mu.Unlock()
	err = attempt(ctx, by)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.interrupt = nil
	return d.by.Before(by), err
}

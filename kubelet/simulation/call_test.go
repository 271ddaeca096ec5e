package simulation_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
)

var (
	errDead = fault.Aborted.Errorf("the process is dead")
	errDown = fault.Unavailable.Errorf("the runtime is down")
	errFail = fault.Unavailable.Errorf("the call failed")
)

// request is one call of the kubelet to its world.
type request struct {
	what, about string
	with        string        // for the diary
	most        time.Duration // it takes at most twice as long
	// reads: it changes nothing, and is not in the diary.
	reads bool
	// local: it is none to the runtime, so it works while that is down, and ends at
	// once with its process.
	local bool
	// check holds the call to the rules when it is made.
	check func()
	// effect changes the world, which is locked. With stray nobody waits for it.
	effect func(stray bool) error
}

// call carries out a call: it takes time, may fail before or after its effect, may
// never be answered, and may be the moment at which the process dies. A call whose
// process has died has no effect and does not return to a running kubelet.
func (p *process) call(ctx context.Context, c request) error {
	l := p.life
	if p.dead() || ctx.Err() != nil {
		return ended(ctx)
	}
	key := c.what + " " + c.about
	l.count(c.reads)
	if !c.reads {
		l.note("%s%s", key, c.with)
	}
	if c.check != nil {
		l.mu.Lock()
		c.check()
		l.mu.Unlock()
	}
	if !c.local && l.down.Load() {
		wait(ctx, 100*time.Microsecond)
		return errDown
	}
	fate := l.fate(key, c.reads)
	if !wait(ctx, l.dice.spread(key, 20*time.Microsecond, c.most)) {
		p.abandon(key, c)
		return ended(ctx)
	}
	switch fate {
	case failsFirst:
		l.note("  %s fails", key)
		return fmt.Errorf("%s: %w", key, errFail)
	case diesFirst:
		if p.dies(key + ", before it has an effect") {
			p.abandon(key, c)
			return errDead
		}
	case hangs:
		if _, limited := ctx.Deadline(); !limited {
			break // a pull or a hook takes as long as it takes
		}
		l.note("  %s is never answered", key)
		p.abandon(key, c)
		<-ctx.Done()
		return ended(ctx)
	}
	l.mu.Lock()
	err := c.effect(false)
	l.mu.Unlock()
	if fate == diesLater && p.dies(key+", after its effect") {
		return errDead
	}
	if !wait(ctx, l.dice.spread(key, 20*time.Microsecond, c.most)) {
		return ended(ctx)
	}
	if err == nil && fate == failsLater {
		l.note("  %s fails after its effect", key)
		return fmt.Errorf("%s: %w", key, errFail)
	}
	if err != nil {
		l.note("  %s: %v", key, err)
	}
	return err
}

// abandon is what the runtime does with a call that nobody waits for any more.
func (p *process) abandon(key string, c request) {
	l := p.life
	if c.local || !l.dice.chance("goes on "+key, l.temper.goesOn) {
		return
	}
	time.AfterFunc(l.dice.spread("goes on "+key, time.Millisecond, 20*time.Second), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.note("  %s has its effect, unwaited for", key)
		if err := c.effect(true); err != nil {
			l.note("  %s, unwaited for: %v", key, err)
		}
	})
}

// ended returns why a call was given up.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errDead
}

// wait sleeps, and reports false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

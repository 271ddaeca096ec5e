package conformance

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/nodekit-project/nodekit/internal/scratch"
)

// panicked is the error of a check that did not return: a fault of the check, which
// makes its rule fail but proves nothing about the target.
type panicked struct{ what string }

func (p *panicked) Error() string { return p.what }

// check runs a rule's check on a goroutine of its own, so that one that ignores its
// context cannot block the run forever. stopped is false if the check was still
// running stopGrace after ctx ended.
func (r *runner[T]) check(ctx context.Context, rule *Rule[T]) (seen error, stopped bool) {
	done := make(chan error, 1)
	go func() { done <- r.checkInDir(ctx, rule) }()
	select {
	case seen = <-done:
		return seen, true
	case <-ctx.Done():
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case seen = <-done:
		return seen, true
	case <-grace.C:
		return nil, false
	}
}

func (r *runner[T]) checkInDir(ctx context.Context, rule *Rule[T]) (seen error) {
	dir, err := scratch.New()
	if err != nil {
		return &panicked{fmt.Sprintf("making a directory for the check: %v", err)}
	}
	defer func() {
		// What is mounted there is not removed: it may be a directory of the machine.
		if err := dir.Remove(); err != nil && seen == nil {
			seen = fmt.Errorf("removing the check's directory: %w", err)
		}
	}()
	in := &Input[T]{
		Target: r.target, Profile: r.opts.Profile, TempDir: dir.Path(),
		Rand: rand.New(rand.NewPCG(r.opts.Seed, hash(rule.ID))),
		Log:  r.opts.Logger.With("rule", rule.ID), samples: &r.samples,
	}
	return protect(ctx, rule, in)
}

// protect turns a panic or a runtime.Goexit of the check into an error.
func protect[T any](ctx context.Context, rule *Rule[T], in *Input[T]) (seen error) {
	returned := make(chan error, 1)
	go func() {
		seen := error(&panicked{"the check ended its goroutine without a result"})
		defer func() {
			if p := recover(); p != nil {
				in.Log.Error("check panicked", "panic", p, "stack", string(debug.Stack()))
				seen = &panicked{fmt.Sprintf("the check panicked: %v", p)}
			}
			returned <- seen
		}()
		seen = rule.Check(ctx, in)
	}()
	return <-returned
}

func hash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	return h.Sum64()
}

package cni

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/panics"
)

// undoTime bounds the rollback of a failed ADD, which runs on although the
// call's context may have ended.
const undoTime = 10 * time.Second

// Rollback is a stack of steps that undo what an ADD has done before it fails. A
// request has one, see Request.Undo; a plugin that is served by something else
// than this package can have one of its own:
//
//	var undo cni.Rollback
//	defer func() {
//		if err != nil {
//			err = undo.Run(ctx, err)
//		}
//	}()
//
// The zero value is empty. Methods are safe for concurrent use.
type Rollback struct {
	mu    sync.Mutex
	steps []undoStep
}

type undoStep struct {
	what string
	fn   func(context.Context) error
}

// Push puts a step onto the stack: right after (or, where undoing nothing is
// harmless, right before) the act that fn undoes.
func (b *Rollback) Push(what string, fn func(ctx context.Context) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.steps = append(b.steps, undoStep{what, fn})
}

// Run runs the steps in the reverse order, each although others failed, panicked or ended
// the goroutine, with a context of ten seconds that goes on when ctx has ended. It
// returns cause as it is, or joined with what could not be undone under cause's
// code. The stack is empty after it, so a second call undoes nothing.
func (b *Rollback) Run(ctx context.Context, cause error) error {
	b.mu.Lock()
	steps := b.steps
	b.steps = nil
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	errs := runSteps(ctx, steps)
	if len(errs) == 0 {
		return cause
	}
	return Errorf(CodeOf(cause), "%w", errors.Join(append([]error{cause}, errs...)...))
}

// runSteps runs the steps from the last one on. The one before each is deferred, for a step
// may end the goroutine.
func runSteps(ctx context.Context, steps []undoStep) (errs []error) {
	if len(steps) == 0 {
		return nil
	}
	step, before := steps[len(steps)-1], steps[:len(steps)-1]
	defer func() { errs = append(errs, runSteps(ctx, before)...) }()
	if err := step.run(ctx); err != nil {
		errs = append(errs, fmt.Errorf("undoing %s: %w", step.what, err))
	}
	return errs
}

func (s *undoStep) run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", panics.Of(p))
		}
	}()
	return s.fn(ctx)
}

// Undo puts a step onto the rollback stack of an ADD: call it right after (or,
// where undoing nothing is harmless, right before) the act that fn undoes. If
// ADD fails, panics, or is told to end (SIGTERM, a context that ends), the steps
// run in the reverse order with a context that has not ended, each although
// others failed. The other verbs ignore it.
func (r *Request) Undo(what string, fn func(ctx context.Context) error) {
	r.undo.Push(what, fn)
}

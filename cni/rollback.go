package cni

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/panics"
)

// undoTime bounds the rollback of a failed ADD, which runs even if the context of the
// call has ended.
const undoTime = 10 * time.Second

// Rollback is a stack of steps that undo what a failed ADD has done. Every request has
// one, see Request.Undo; a plugin that is not served by this package can use its own:
//
//	var undo cni.Rollback
//	defer func() {
//		if err != nil {
//			err = undo.Run(ctx, err)
//		}
//	}()
//
// The zero value is an empty stack. Methods are safe for concurrent use.
type Rollback struct {
	mu    sync.Mutex
	steps []undoStep
}

type undoStep struct {
	what string
	fn   func(context.Context) error
}

// Push adds a step to the stack. Call it right after the action that fn undoes or, if
// undoing nothing is harmless, right before it.
func (b *Rollback) Push(what string, fn func(ctx context.Context) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.steps = append(b.steps, undoStep{what, fn})
}

// Run runs the steps in reverse order, continuing past those that fail, panic or end
// their goroutine. Their context lasts ten seconds, even if ctx has ended. Run returns
// cause unchanged or, if steps failed, joined with their errors under cause's code. It
// empties the stack, so a second call undoes nothing.
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

// runSteps runs the steps from the last to the first. Each call defers the earlier
// steps, because a step may end the goroutine.
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

// Undo adds a step to the rollback stack of an ADD. Call it right after the action that
// fn undoes or, if undoing nothing is harmless, right before it. If ADD fails, panics
// or is canceled (SIGTERM, the end of its context), the steps run in reverse order,
// continuing past errors, with a context that has not ended. Other verbs ignore the
// stack.
func (r *Request) Undo(what string, fn func(ctx context.Context) error) {
	r.undo.Push(what, fn)
}

package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// parts runs the node's parts. The first failure ends all of them: without one of its
// parts, a node would only fail later and less clearly.
type parts struct {
	ctx  context.Context
	fail context.CancelCauseFunc
	wg   sync.WaitGroup
}

func newParts(ctx context.Context) *parts {
	ctx, fail := context.WithCancelCause(ctx)
	return &parts{ctx: ctx, fail: fail}
}

// run starts a part that lives until the node's context ends.
func (p *parts) run(name string, part func(context.Context) error) {
	p.wg.Go(func() {
		err := part(p.ctx)
		switch {
		case err != nil:
			p.fail(fmt.Errorf("%s: %w", name, err))
		case p.ctx.Err() == nil:
			p.fail(fmt.Errorf("%s ended by itself", name))
		}
	})
}

// wait waits until every part has ended. It returns nil if the node's context ended
// them, and otherwise the error of the first that failed.
func (p *parts) wait() error {
	p.wg.Wait()
	defer p.fail(nil)
	if err := context.Cause(p.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

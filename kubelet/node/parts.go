package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// parts runs the node's parts. The first that fails ends all of them: a node
// without one of its parts would only fail later and less clearly.
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

// wait returns when every part has ended: nil when the node's context ended
// them, otherwise the error of the first that failed.
func (p *parts) wait() error {
	p.wg.Wait()
	defer p.fail(nil)
	if err := context.Cause(p.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

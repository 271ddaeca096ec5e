package cnisuite

import (
	"context"
	"fmt"
	"sync"

	"github.com/nodekit-project/nodekit/conformance"
)

// experiments are what the rules of one Suite have found out about plugins. Rules
// that judge the same calls execute them only once, because executions take most of
// the suite's time. They may be used concurrently; a nil *experiments keeps nothing.
type experiments struct {
	mu  sync.Mutex
	all map[string]*experiment // by name and target
}

// experiment is the outcome of one experiment, once there is one.
type experiment struct {
	running chan struct{} // holds a token while a rule carries it out or reads the outcome
	done    bool
	outcome any
}

func (e *experiments) of(name string, target *Target) *experiment {
	about := *target
	about.known = nil
	key := fmt.Sprintf("%s of %+v", name, about)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = map[string]*experiment{}
	}
	if e.all[key] == nil {
		e.all[key] = &experiment{running: make(chan struct{}, 1)}
	}
	return e.all[key]
}

// found returns the outcome of the experiment, carried out for this rule or for
// another one. An error is not an outcome: the next rule that asks tries again, in
// its own lab. An outcome must not be changed, and what it has of a lab (paths,
// namespaces) may belong to one that is gone.
func found[T any](ctx context.Context, l *lab, name string, carryOut func(context.Context, *lab) (T, error)) (T, error) {
	if l.target.known == nil {
		return carryOut(ctx, l)
	}
	e := l.target.known.of(name, l.target)
	var none T
	select {
	case e.running <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("waiting for what another rule executes, %s: %w", name, ctx.Err())
	}
	defer func() { <-e.running }()
	if e.done {
		return e.outcome.(T), nil
	}
	outcome, err := carryOut(ctx, l)
	if err != nil {
		return none, err
	}
	e.done, e.outcome = true, outcome
	return outcome, nil
}

// in makes the experiments available to a rule's check.
func (e *experiments) in(check func(context.Context, *conformance.Input[Target]) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) error {
		in.Target.known = e
		return check(ctx, in)
	}
}

package cnibench

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/wires"
	"github.com/nodekit-project/nodekit/internal/bench"
)

// crowd is the number of Pods that are connected and disconnected at once.
const crowd = 100

// parallel measures many Pods at once, through the doors that execute nothing: the
// others would measure the machine's forks. Each sample is long, so there are fewer.
func (l *lab) parallel(ctx context.Context) (err error) {
	var sides []bench.Side
	for _, d := range l.doors {
		if !d.resident {
			continue
		}
		n := l.newNetwork(d, true, false)
		sides = append(sides, l.many(d.name,
			func(ctx context.Context, p *pod) error { _, err := n.add(ctx, p); return err },
			func(ctx context.Context, p *pod) error { _, err := n.del(ctx, p); return err }))
	}
	w, err := wires.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	sides = append(sides, l.many("veth, bridge port, address and route alone",
		func(_ context.Context, p *pod) error { return w.Add(p.ns, p.id) },
		func(_ context.Context, p *pod) error { return w.Del(p.id) }))
	title := fmt.Sprintf("ADD of bridge, host-local and ipMasq for %d Pods at once, until the last has it; and DEL of all", crowd)
	return l.measure(ctx, title, max(1, l.Rounds/3), sides)
}

// many returns a side that connects and disconnects many Pods at once.
func (l *lab) many(name string, add, del func(context.Context, *pod) error) bench.Side {
	return bench.Side{Name: name, Run: func(ctx context.Context) (s bench.Sample, err error) {
		pods, remove, err := l.newPods(crowd)
		defer func() { err = errors.Join(err, remove(), l.settled(ctx)) }()
		if err != nil {
			return s, err
		}
		if s, err = each(ctx, pods, add); err != nil {
			return s, err
		}
		gone, err := each(ctx, pods, del)
		s.Steps = []bench.Step{{Name: "DEL", Took: gone.Total}}
		return s, err
	}}
}

// each measures a call for every Pod at once.
func each(ctx context.Context, pods []*pod, call func(context.Context, *pod) error) (bench.Sample, error) {
	var group errgroup.Group
	return bench.Timed(func() error {
		for _, p := range pods {
			group.Go(func() error { return call(ctx, p) })
		}
		return group.Wait()
	})
}

package cnibench

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// crowd is how many Pods come and go at once.
const crowd = 100

// parallel measures many Pods at once, through the doors that execute nothing:
// with the others it would be the machine's forks that are measured. Each
// sample is long, so there are fewer.
func (l *lab) parallel(ctx context.Context) error {
	var sides []bench.Side
	for _, d := range l.doors {
		if !d.resident {
			continue
		}
		n := l.newNetwork(d, true, false)
		sides = append(sides, bench.Side{Name: d.name, Run: func(ctx context.Context) (bench.Sample, error) { return l.many(ctx, n) }})
	}
	title := fmt.Sprintf("ADD of bridge, host-local and ipMasq for %d Pods at once, until the last has it; and DEL of all", crowd)
	return l.measure(ctx, title, max(1, l.Rounds/3), sides)
}

func (l *lab) many(ctx context.Context, n *network) (s bench.Sample, err error) {
	pods := make([]*pod, crowd)
	defer func() {
		for _, p := range pods {
			if p != nil {
				err = errors.Join(err, netns.Remove(p.ns))
			}
		}
		err = errors.Join(err, l.settled(ctx))
	}()
	for i := range pods {
		if pods[i], err = l.newPod(); err != nil {
			return s, err
		}
	}
	s, err = each(pods, func(p *pod) error {
		_, err := n.add(ctx, p)
		return err
	})
	if err != nil {
		return s, err
	}
	del, err := each(pods, func(p *pod) error {
		_, err := n.del(ctx, p)
		return err
	})
	s.Steps = []bench.Step{{Name: "DEL", Took: del.Total}}
	return s, err
}

// each measures a call for every Pod at once.
func each(pods []*pod, call func(*pod) error) (bench.Sample, error) {
	var group errgroup.Group
	return bench.Timed(func() error {
		for _, p := range pods {
			group.Go(func() error { return call(p) })
		}
		return group.Wait()
	})
}

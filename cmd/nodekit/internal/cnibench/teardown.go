package cnibench

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// patience is how long what DEL has given up may take to disappear.
const patience = 5 * time.Second

// settled waits until only neighbours are attached, so that the kernel's removals
// for one side do not meet the next.
func (l *lab) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		n, err := veths()
		if err != nil || n <= l.staying {
			return err
		}
		select {
		case <-ctx.Done():
			return fault.Unavailable.Errorf("%d interfaces are left %v after their containers", n-l.staying, patience)
		case <-time.After(200 * time.Microsecond):
		}
	}
}

// quiet is settled with an additional wait for the kernel: it removes a link from its
// list before it has finished with it, and holds the lock on all links meanwhile. An
// ADD that follows at once waits up to 20 ms for that, whichever plugin makes it.
func (l *lab) quiet(ctx context.Context) error {
	err := l.settled(ctx)
	time.Sleep(60 * time.Millisecond)
	return err
}

// veths counts the ends of veth pairs in the run's namespace.
func veths() (n int, err error) {
	all, err := redump.List(netlink.LinkList)
	for _, l := range all {
		if l.Type() == "veth" {
			n++
		}
	}
	return n, err
}

// teardown measures DEL if the runtime removes the network namespace next.
func (l *lab) teardown(ctx context.Context) error {
	var sides []bench.Side
	for _, d := range l.doors {
		n := l.newNetwork(d, true, true)
		if _, err := l.life(ctx, n); err != nil { // what outlives attachments is there now
			return err
		}
		sides = append(sides, bench.Side{Name: d.name, Run: func(ctx context.Context) (bench.Sample, error) { return l.end(ctx, n) }})
	}
	title := "DEL of bridge, host-local, ipMasq and portmap, and the removal of the network namespace; until interfaces, rules and reservation are gone"
	return l.measure(ctx, title, l.Rounds, sides)
}

func (l *lab) end(ctx context.Context, n *network) (s bench.Sample, err error) {
	before, err := leak.Take(scope())
	if err != nil {
		return s, err
	}
	p, err := l.newPod()
	if err != nil {
		return s, err
	}
	if _, err := n.add(ctx, p); err != nil {
		return s, err
	}
	start := time.Now()
	if s.Total, err = n.del(ctx, p); err != nil {
		return s, err
	}
	removal := time.Now()
	if err := netns.Remove(p.ns); err != nil {
		return s, err
	}
	s.Steps = append(s.Steps, bench.Step{Name: "removal of the namespace", Took: time.Since(removal)})
	at, err := l.gone(ctx, n, before)
	s.Steps = append(s.Steps, bench.Step{Name: "all gone", Took: at.Sub(start)})
	return s, err
}

// gone waits until everything that was not there before has disappeared, and returns
// when it looked and found that.
func (l *lab) gone(ctx context.Context, n *network, before *leak.Snapshot) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if err := l.settled(ctx); err != nil {
			return at, err
		}
		at = time.Now()
		left, err := n.left(l.Data, before)
		if err != nil || len(left) == 0 {
			return at, err
		}
		if ctx.Err() != nil {
			return at, fault.Unavailable.Errorf("left behind: %v", left)
		}
	}
}

// left returns what the network has in addition to before, and its reservations.
func (n *network) left(data string, before *leak.Snapshot) ([]leak.Leak, error) {
	now, err := leak.Take(scope())
	if err != nil {
		return nil, err
	}
	left := before.Diff(now)
	entries, err := os.ReadDir(filepath.Join(data, n.name))
	for _, e := range entries {
		if net.ParseIP(e.Name()) != nil {
			left = append(left, leak.Leak{Kind: leak.File, Name: e.Name()})
		}
	}
	return left, err
}

func scope() leak.Scope {
	return leak.Scope{Kinds: []leak.Kind{leak.Link, leak.Address, leak.NFT}}
}

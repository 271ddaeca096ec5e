package cnibench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// ipam measures host-local alone with more and more reservations.
func (l *lab) ipam(ctx context.Context) error {
	for _, reservations := range []int{0, 1000, 10_000, 50_000} {
		if err := l.reserved(ctx, reservations); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) reserved(ctx context.Context, reservations int) (err error) {
	var sides []bench.Side
	var dirs []string
	defer func() {
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, d := range l.doors {
		if d.upstream && len(sides) > 0 && sides[len(sides)-1].Name == "upstream" {
			continue // it creates no rules
		}
		if d.upstream {
			d.name = "upstream"
		}
		n := &network{door: d, name: fmt.Sprintf("ipam%d", l.next())}
		n.plugins = []map[string]any{{"type": "host-local", "ipam": map[string]any{
			"type": "host-local", "dataDir": l.Data, "ranges": [][]any{{map[string]any{"subnet": "10.0.0.0/8"}}},
		}}}
		dirs = append(dirs, filepath.Join(l.Data, n.name))
		if err := fill(filepath.Join(l.Data, n.name), reservations); err != nil {
			return err
		}
		sides = append(sides, bench.Side{Name: d.name, Run: func(ctx context.Context) (bench.Sample, error) { return l.reserve(ctx, n) }})
	}
	return l.measure(ctx, fmt.Sprintf("ADD of host-local alone, with %d reservations", reservations), l.Rounds, sides)
}

// fill makes reservations in the format of upstream's plugin, which nodekit's takes
// over.
func fill(dir string, reservations int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	addr := netip.MustParseAddr("10.0.0.1")
	for i := range reservations {
		addr = addr.Next()
		if err := os.WriteFile(filepath.Join(dir, addr.String()), fmt.Appendf(nil, "container-%d\r\neth0", i), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "last_reserved_ip.0"), []byte(addr.String()), 0o600)
}

func (l *lab) reserve(ctx context.Context, n *network) (s bench.Sample, err error) {
	p, err := l.newPod()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, netns.Remove(p.ns)) }()
	steps, err := n.add(ctx, p)
	if err != nil {
		return s, err
	}
	p.result = nil // a delegate gets none
	took, err := n.del(ctx, p)
	return bench.Sample{Total: total(steps), Steps: []bench.Step{{Name: "DEL", Took: took}}}, err
}

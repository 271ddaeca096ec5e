package cnibench

import (
	"context"
	"errors"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/wires"
	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// floors measures what no plugin can be faster than.
func (l *lab) floors(ctx context.Context) (err error) {
	version := map[string]string{"CNI_COMMAND": "VERSION"}
	sides := []bench.Side{
		execution("exec /bin/true", "/bin/true", nil),
		execution("exec nodekit's bridge, VERSION", ours+"/bridge", version),
	}
	sides = append(sides, execution("exec the shim, the daemon answers VERSION", shims+"/bridge", version))
	if l.Upstream != "" {
		sides = append(sides,
			execution("exec upstream's bridge, VERSION", theirs+"/bridge", version),
			execution("exec a Go program that does nothing", theirs+"/nothing", nil))
	}
	w, err := wires.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	sides = append(sides, bench.Side{Name: "veth, bridge port, address and route, in process", Run: func(context.Context) (bench.Sample, error) { return l.wire(w) }})
	return l.measure(ctx, "what the machine asks for at least", l.Rounds, sides)
}

func execution(name, file string, env map[string]string) bench.Side {
	stdin := []byte(`{"cniVersion":"1.1.0"}`)
	return bench.Side{Name: name, Run: func(ctx context.Context) (bench.Sample, error) {
		return bench.Timed(func() error {
			_, err := cni.Exec(ctx, file, env, stdin, nil)
			return err
		})
	}}
}

// wire does by hand what ADD of bridge comes to, and undoes it.
func (l *lab) wire(w *wires.Bridge) (s bench.Sample, err error) {
	p, err := l.newPod()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, netns.Remove(p.ns)) }()
	s, err = bench.Timed(func() error { return w.Add(p.ns, p.id) })
	if err != nil {
		return s, err
	}
	del, err := bench.Timed(func() error { return w.Del(p.id) })
	s.Steps = []bench.Step{{Name: "deletion of the veth", Took: del.Total}}
	return s, err
}

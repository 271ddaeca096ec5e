package cnibench

import (
	"context"
	"errors"
	"time"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/wires"
	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/bench"
)

// What has not been used for a while takes longer, on a virtual machine several times
// as long. So a call is made several times in a row: after a rest, again, and so on.
// These are the steps of the second and the last.
const (
	again = "again"
	inRow = "in a row"
	calls = 6
)

// floors measures lower bounds for any plugin, in the same way as ADDs: after a rest,
// again, and in a row.
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
	sides = append(sides, l.wires("veth, bridge port, address and route, in process", w, func(_ context.Context, p *pod) error { return w.Add(p.ns, p.id) }))
	if l.Upstream != "" {
		sides = append(sides, l.wires("exec a Go program that makes these", w, func(ctx context.Context, p *pod) error {
			_, err := cni.Exec(ctx, theirs+"/least", map[string]string{"CNI_CONTAINERID": p.id, "CNI_NETNS": p.ns}, []byte("{}"), nil)
			return err
		}))
	}
	for i, s := range sides {
		sides[i].Run = func(ctx context.Context) (bench.Sample, error) {
			if err := l.quiet(ctx); err != nil {
				return bench.Sample{}, err
			}
			return s.Run(ctx)
		}
	}
	return l.measure(ctx, "what the machine asks for at least, after a rest, again, and in a row", l.Rounds, sides)
}

func execution(name, file string, env map[string]string) bench.Side {
	stdin := []byte(`{"cniVersion":"1.1.0"}`)
	return bench.Side{Name: name, Run: func(ctx context.Context) (bench.Sample, error) {
		return repeated(timed(func(int) error {
			_, err := cni.Exec(ctx, file, env, stdin, nil)
			return err
		}))
	}}
}

// repeated makes a call, which gets its number and returns its duration, after a rest,
// again and in a row.
func repeated(call func(n int) (time.Duration, error)) (s bench.Sample, err error) {
	for n := range calls {
		took, err := call(n)
		if err != nil {
			return s, err
		}
		switch n {
		case 0:
			s.Total = took
		case 1:
			s.Steps = append(s.Steps, bench.Step{Name: again, Took: took})
		case calls - 1:
			s.Steps = append(s.Steps, bench.Step{Name: inRow, Took: took})
		}
	}
	return s, nil
}

// timed measures the duration of a call.
func timed(call func(n int) error) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) {
		s, err := bench.Timed(func() error { return call(n) })
		return s.Total, err
	}
}

// wires measures making by hand, and undoing, what ADD of bridge results in.
func (l *lab) wires(name string, w *wires.Bridge, add func(context.Context, *pod) error) bench.Side {
	return bench.Side{Name: name, Run: func(ctx context.Context) (s bench.Sample, err error) {
		pods, remove, err := l.newPods(calls)
		defer func() { err = errors.Join(err, remove()) }()
		if err != nil {
			return s, err
		}
		s, err = repeated(timed(func(n int) error { return add(ctx, pods[n]) }))
		if err != nil {
			return s, err
		}
		del, err := bench.Timed(func() error { return w.Del(pods[0].id) })
		s.Steps = append(s.Steps, bench.Step{Name: "deletion of the veth", Took: del.Total})
		for _, p := range pods[1:] {
			err = errors.Join(err, w.Del(p.id))
		}
		return s, err
	}}
}

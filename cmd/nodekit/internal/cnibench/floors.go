package cnibench

import (
	"context"
	"errors"

	"github.com/nodekit-project/nodekit/cmd/nodekit/internal/wires"
	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/bench"
)

// again is the step that is the same once more, at once. What nobody has used for a
// while takes longer, on a virtual machine several times as long.
const again = "again"

// floors measures what no plugin can be faster than, each as ADDs are: after a rest, and
// again.
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
	return l.measure(ctx, "what the machine asks for at least, after a rest and once more", l.Rounds, sides)
}

func execution(name, file string, env map[string]string) bench.Side {
	stdin := []byte(`{"cniVersion":"1.1.0"}`)
	return bench.Side{Name: name, Run: func(ctx context.Context) (bench.Sample, error) {
		return twice(func() error {
			_, err := cni.Exec(ctx, file, env, stdin, nil)
			return err
		})
	}}
}

// twice measures a call, and the same call again.
func twice(call func() error) (bench.Sample, error) {
	s, err := bench.Timed(call)
	if err != nil {
		return s, err
	}
	next, err := bench.Timed(call)
	s.Steps = []bench.Step{{Name: again, Took: next.Total}}
	return s, err
}

// wires measures what makes by hand what ADD of bridge comes to, and undoes it.
func (l *lab) wires(name string, w *wires.Bridge, add func(context.Context, *pod) error) bench.Side {
	return bench.Side{Name: name, Run: func(ctx context.Context) (s bench.Sample, err error) {
		pods, remove, err := l.newPods(2)
		defer func() { err = errors.Join(err, remove()) }()
		if err != nil {
			return s, err
		}
		left := pods
		s, err = twice(func() error {
			p := left[0]
			left = left[1:]
			return add(ctx, p)
		})
		if err != nil {
			return s, err
		}
		del, err := bench.Timed(func() error { return w.Del(pods[0].id) })
		s.Steps = append(s.Steps, bench.Step{Name: "deletion of the veth", Took: del.Total})
		return s, errors.Join(err, w.Del(pods[1].id))
	}}
}

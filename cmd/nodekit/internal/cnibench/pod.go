package cnibench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// network is a chain of plugins that is called through a door.
type network struct {
	door
	name    string
	plugins []map[string]any
}

// newNetwork returns a network with its own bridge and addresses.
func (l *lab) newNetwork(d door, masquerade, ports bool) *network {
	l.networks++
	id := l.networks // its subnet's second byte
	n := &network{door: d, name: fmt.Sprintf("bench%d", id)}
	br := map[string]any{
		"type": "bridge", "bridge": fmt.Sprintf("bench%d", id), "isDefaultGateway": true, "ipMasq": masquerade,
		"ipam": map[string]any{"type": "host-local", "dataDir": l.Data, "ranges": [][]any{{map[string]any{"subnet": fmt.Sprintf("10.%d.0.0/16", id)}}}},
	}
	n.plugins = append(n.plugins, br)
	if d.upstream {
		br["ipMasqBackend"] = d.backend
	}
	if ports {
		n.plugins = append(n.plugins, map[string]any{"type": "portmap"})
		if d.upstream {
			n.plugins[1]["backend"] = d.backend
		}
	}
	return n
}

// pod is a container with what its runtime knows about it.
type pod struct {
	id, ns string
	port   int // of the host, when the network maps ports
	result json.RawMessage
}

func (l *lab) newPod() (*pod, error) {
	const firstPort, ports = 20000, 40000
	n := l.next()
	id := fmt.Sprintf("pod-%d", n)
	p := &pod{id: id, ns: filepath.Join(home, "netns", id), port: firstPort + n%ports}
	return p, netns.Create(p.ns)
}

// newPods creates Pods. remove removes their network namespaces, even if not all could
// be created.
func (l *lab) newPods(n int) (pods []*pod, remove func() error, err error) {
	remove = func() (err error) {
		for _, p := range pods {
			err = errors.Join(err, netns.Remove(p.ns))
		}
		return err
	}
	for range n {
		p, err := l.newPod()
		if err != nil {
			return pods, remove, err
		}
		pods = append(pods, p)
	}
	return pods, remove, nil
}

// add attaches the Pod, and returns the time of each plugin.
func (n *network) add(ctx context.Context, p *pod) (steps []bench.Step, err error) {
	for _, c := range n.plugins {
		out, step, err := n.invoke(ctx, "ADD", p, c)
		if err != nil {
			return steps, err
		}
		p.result, steps = out, append(steps, step)
	}
	return steps, nil
}

// del detaches the Pod.
func (n *network) del(ctx context.Context, p *pod) (took time.Duration, err error) {
	for _, c := range slices.Backward(n.plugins) {
		_, step, err := n.invoke(ctx, "DEL", p, c)
		if err != nil {
			return took, err
		}
		took += step.Took
	}
	return took, nil
}

// invoke calls one plugin. Only the call is timed.
func (n *network) invoke(ctx context.Context, command string, p *pod, config map[string]any) ([]byte, bench.Step, error) {
	config = maps.Clone(config)
	config["cniVersion"], config["name"] = "1.1.0", n.name
	if p.result != nil {
		config["prevResult"] = p.result
	}
	kind := config["type"].(string)
	if kind == "portmap" {
		config["runtimeConfig"] = map[string]any{"portMappings": []any{map[string]any{"hostPort": p.port, "containerPort": 80, "protocol": "tcp"}}}
	}
	stdin, err := json.Marshal(config)
	if err != nil {
		return nil, bench.Step{}, err
	}
	env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": p.id, "CNI_IFNAME": "eth0", "CNI_NETNS": p.ns}
	start := time.Now()
	out, err := n.call(ctx, kind, env, stdin)
	took := time.Since(start)
	if err != nil {
		return nil, bench.Step{}, fmt.Errorf("%s of %s, %s: %w", command, kind, n.name, err)
	}
	return out, bench.Step{Name: kind, Took: took}, nil
}

func total(steps []bench.Step) (sum time.Duration) {
	for _, s := range steps {
		sum += s.Took
	}
	return sum
}

// life measures ADD after a rest, of the next Pod, which follows at once, and of the
// last of several in a row, and DEL while the network namespace exists.
func (l *lab) life(ctx context.Context, n *network) (s bench.Sample, err error) {
	pods, remove, err := l.newPods(calls)
	defer func() { err = errors.Join(err, remove(), l.quiet(ctx)) }()
	if err != nil {
		return s, err
	}
	var first []bench.Step
	s, err = repeated(func(i int) (time.Duration, error) {
		steps, err := n.add(ctx, pods[i])
		if i == 0 && len(steps) > 1 {
			first = steps
		}
		return total(steps), err
	})
	if err != nil {
		return s, err
	}
	took, err := n.del(ctx, pods[0])
	if err != nil {
		return s, err
	}
	s.Steps = slices.Concat(first, s.Steps, []bench.Step{{Name: "DEL", Took: took}})
	for _, p := range pods[1:] {
		_, derr := n.del(ctx, p)
		err = errors.Join(err, derr)
	}
	return s, err
}

// neighbour attaches a Pod that stays while others come and go, as on any node in use:
// what the first Pod of a network creates and the last one removes exists already.
// leave detaches it.
func (l *lab) neighbour(ctx context.Context, n *network) (leave func() error, err error) {
	p, err := l.newPod()
	if err != nil {
		return nil, err
	}
	if _, err := n.add(ctx, p); err != nil {
		return nil, err
	}
	l.staying++
	return func() error {
		l.staying--
		_, err := n.del(ctx, p)
		return errors.Join(err, netns.Remove(p.ns))
	}, nil
}

// lives measures the lives of Pods through every door.
func (l *lab) lives(ctx context.Context, title string, masquerade, ports bool) (err error) {
	var sides []bench.Side
	var leave []func() error
	defer func() {
		for _, fn := range leave {
			err = errors.Join(err, fn())
		}
		err = errors.Join(err, l.settled(ctx))
	}()
	for _, d := range l.doors {
		if d.upstream && !masquerade {
			if len(sides) > 0 && sides[len(sides)-1].Name == "upstream" {
				continue // without rules the backends are the same
			}
			d.name = "upstream"
		}
		n := l.newNetwork(d, masquerade, ports)
		fn, err := l.neighbour(ctx, n)
		if err != nil {
			return err
		}
		leave = append(leave, fn)
		sides = append(sides, bench.Side{Name: d.name, Run: func(ctx context.Context) (bench.Sample, error) { return l.life(ctx, n) }})
	}
	return l.measure(ctx, title, l.Rounds, sides)
}

func (l *lab) bridge(ctx context.Context) error {
	return l.lives(ctx, "ADD of bridge and host-local beside another Pod, after a rest, again, and in a row; DEL while the network namespace stays", false, false)
}

func (l *lab) masquerade(ctx context.Context) error {
	return l.lives(ctx, "the same with ipMasq", true, false)
}

func (l *lab) portmap(ctx context.Context) error {
	return l.lives(ctx, "the same with ipMasq, and portmap behind it", true, true)
}

package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// requestWays are those of CONVENTIONS.md.
var requestWays = []string{"runtimeConfig", "args", "CNI_ARGS"} //nolint:gochecknoglobals // a constant

// isIPAM returns NotApplicable for all other plugins.
func (l *lab) isIPAM() error {
	if l.target.Kind != IPAM {
		return conformance.NotApplicable("the rule is about IPAM plugins")
	}
	if !l.speaks("0.3.0") {
		return conformance.NotApplicable("the plugin speaks %s at most, whose results are others", l.version)
	}
	return nil
}

// allocates returns NotApplicable for plugins that do not assign addresses.
func (l *lab) allocates() error {
	if l.target.Static {
		return conformance.NotApplicable("the profile says that the configuration itself holds the addresses")
	}
	return l.isIPAM()
}

// small returns the keys that replace the configuration by the one with few
// addresses.
func (l *lab) small() (map[string]any, error) {
	if err := l.isIPAM(); err != nil {
		return nil, err
	}
	few, err := l.target.exhaustible(l.state())
	if err != nil {
		return nil, err
	}
	if few == nil {
		return nil, conformance.NotApplicable("the profile declares no exhaustible configuration")
	}
	usual, err := l.target.config(l.state())
	for key := range usual {
		if _, has := few[key]; !has {
			few[key] = nil
		}
	}
	return few, err
}

// addresses are those of a result.
func (r *result) addresses() []netip.Addr {
	var all []netip.Addr
	for _, ip := range r.IPs {
		if p, err := netip.ParsePrefix(ip.Address); err == nil {
			all = append(all, p.Addr())
		}
	}
	return all
}

// lease is an attachment of an IPAM plugin with its addresses.
type lease struct {
	c      *container
	result *result // nil: nothing
}

// take requests addresses once, with other keys of the configuration.
func (l *lab) take(ctx context.Context, keys map[string]any) (lease, *answer, error) {
	c, err := l.newContainer()
	if err != nil {
		return lease{}, nil, err
	}
	c.keys = keys
	return l.takeFor(ctx, c, with{})
}

func (l *lab) takeFor(ctx context.Context, c *container, w with) (lease, *answer, error) {
	out, err := l.call(ctx, "ADD", c, w)
	if err != nil {
		return lease{c: c}, nil, err
	}
	if out.rc != 0 {
		return lease{c: c}, out, out.ended()
	}
	got := lease{c: c, result: &result{}}
	if err := out.ok(got.result); err != nil {
		return got, out, err
	}
	if len(got.result.addresses()) == 0 {
		return got, out, fmt.Errorf("ADD gave no address: %s", out)
	}
	c.result = out.stdout
	return got, out, nil
}

// drain takes addresses until there are none, and also returns the refusal.
func (l *lab) drain(ctx context.Context, keys map[string]any) (all []lease, refusal *answer, err error) {
	const most = 64
	for len(all) <= most {
		got, out, err := l.take(ctx, keys)
		if err != nil {
			return nil, nil, err
		}
		if got.result == nil {
			return all, out, nil
		}
		all = append(all, got)
		if err := distinct(all); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("the exhaustible configuration has more than %d addresses", most)
}

// giveBack sends the DELs.
func (l *lab) giveBack(ctx context.Context, all ...lease) error {
	for _, got := range all {
		if err := l.del(ctx, got.c, "DEL"); err != nil {
			return err
		}
	}
	return nil
}

// distinct reports an address that two attachments have.
func distinct(all []lease) error {
	owner := map[netip.Addr]string{}
	for _, got := range all {
		if got.result == nil {
			continue
		}
		for _, a := range got.result.addresses() {
			if other := owner[a]; other != "" {
				return fmt.Errorf("%s and %s both got %s", other, got.c.id, a)
			}
			owner[a] = got.c.id
		}
	}
	return nil
}

// takeAtOnce runs the ADDs of n containers in parallel. One that fails is retried
// alone, as often as it asks for that, and must then not succeed: it may find no
// address, but other ADDs are no reason to fail.
func (l *lab) takeAtOnce(ctx context.Context, n int) ([]lease, error) {
	all, errs := make([]lease, n), make([]error, n)
	for i := range all {
		c, err := l.newContainer()
		if err != nil {
			return nil, err
		}
		all[i].c = c
	}
	outs := make([]*answer, n)
	parallel, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	var seen sync.Mutex
	var given []lease
	for i := range all {
		wg.Go(func() {
			all[i], outs[i], errs[i] = l.takeFor(parallel, all[i].c, with{within: time.Minute})
			seen.Lock()
			defer seen.Unlock()
			given = append(given, all[i])
			if err := distinct(given); err != nil {
				stop(err) // waiting for the others would be useless
			}
		})
	}
	wg.Wait()
	if parallel.Err() != nil {
		return nil, context.Cause(parallel)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, out := range outs {
		if out.rc == 0 {
			continue
		}
		again, _, err := l.takeFor(ctx, all[i].c, with{})
		if err != nil {
			return nil, err
		}
		e, _ := out.failure()
		if again.result != nil && (e == nil || e.Code != 11) {
			return nil, fmt.Errorf("one of %d ADDs at a time failed, and succeeded when it was alone: %s", n, out)
		}
		all[i] = again
	}
	return all, nil
}

// requests returns the ways in which the target can be asked for an address.
func (l *lab) requests() ([]string, error) {
	if err := l.isIPAM(); err != nil {
		return nil, err
	}
	ways := slices.Clone(l.target.Requests)
	config, err := l.target.config(l.state())
	capabilities, _ := config["capabilities"].(map[string]any)
	if capabilities["ips"] == true && !slices.Contains(ways, "runtimeConfig") {
		ways = append(ways, "runtimeConfig")
	}
	if err == nil && len(ways) == 0 {
		err = conformance.NotApplicable("the profile declares no way to ask for an address")
	}
	return ways, err
}

// request requests the address in one of the ways.
func (l *lab) request(ctx context.Context, c *container, way string, address netip.Prefix) (lease, *answer, error) {
	w := with{what: fmt.Sprintf("ADD that asks for %s by %s", address, way)}
	text := []string{address.String()}
	switch way {
	case "args":
		c.keys = map[string]any{"args": map[string]any{"cni": map[string]any{"ips": text}}}
	case "CNI_ARGS":
		w.env = map[string]string{"CNI_ARGS": "IgnoreUnknown=1;IP=" + text[0]}
	default:
		config, err := l.target.config(l.state())
		if err != nil {
			return lease{}, nil, err
		}
		args := map[string]any{}
		if sample, ok := config["runtimeConfig"].(map[string]any); ok {
			args = maps.Clone(sample)
		}
		args["ips"] = text
		c.keys = map[string]any{"runtimeConfig": args}
	}
	return l.takeFor(ctx, c, w)
}

// drained takes all addresses of the exhaustible configuration, at least one, and
// returns its keys.
func (l *lab) drained(ctx context.Context) (all []lease, keys map[string]any, err error) {
	if keys, err = l.small(); err != nil {
		return nil, nil, err
	}
	if all, _, err = l.drain(ctx, keys); err == nil && len(all) == 0 {
		err = errors.New("the exhaustible configuration has no address at all")
	}
	return all, keys, err
}

package portmap

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// check compares the kernel with what ADD installed and changes nothing.
func (p *plugin) check(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	w, err := want(r, c)
	if err != nil || w == nil {
		return err
	}
	return p.connected(r, c, func(v *view) error {
		found, err := v.find(w.elements)
		if err != nil {
			return err
		}
		errs := []error{v.conn.Verify(v.rules), w.checkSysctls()}
		for i, e := range w.elements {
			switch h := found[i]; {
			case h == nil:
				errs = append(errs, fmt.Errorf("%s is missing", describe(e)))
			case !same(e, *h) && !shared(e, *h):
				errs = append(errs, fmt.Errorf("%s has changed, and is of %q", describe(e), h.Owner))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return cni.Errorf(cni.CodeNotAsExpected, "port mappings: %w", err)
		}
		return nil
	})
}

func (w *wanted) checkSysctls() error {
	var errs []error
	for _, v4 := range w.ipv4 {
		errs = append(errs, expectSysctl(sysctl.Forwarding(v4), "1"))
	}
	if w.open != "" {
		errs = append(errs, expectSysctl(localnetOf(w.open), "1"))
	}
	return errors.Join(errs...)
}

// repair restores what check would find missing.
func (p *plugin) repair(ctx context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	w, err := want(r, c)
	if err != nil || w == nil {
		return err
	}
	return p.connected(r, c, func(v *view) error {
		if _, err := v.conn.Decide(ctx, v.rules, func() (nft.Change, error) { return v.install(w.elements) }); err != nil {
			return err
		}
		return w.finish(r)
	})
}

// status tries what ADD needs of the kernel, and restores rules that somebody
// removed: runtimes call STATUS often and CHECK hardly ever.
func (p *plugin) status(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	return p.connectedTo(table(c), func(v *view) error {
		if err := v.conn.Try(v.rules); err != nil {
			return cni.Errorf(cni.CodeUnavailable, "address translation by nftables: %w", err)
		}
		if err := v.conn.Mend(v.rules, r.Log); err != nil {
			return cni.Errorf(cni.CodeLimitedConnection, "rules that are lost: %w", err)
		}
		return nil
	})
}

package portmap

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// check compares the kernel with what ADD made, and never writes.
func check(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	w, err := want(r, c)
	if err != nil || w == nil {
		return err
	}
	return connected(r, c, func(v *view) error {
		found, err := v.find(w.elements)
		if err != nil {
			return err
		}
		errs := []error{v.conn.Verify(v.rules), w.checkSysctls()}
		for i, e := range w.elements {
			switch h := found[i]; {
			case h == nil:
				errs = append(errs, fmt.Errorf("%s is missing", describe(e)))
			case !same(e, *h):
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

// repair puts back what check would miss.
func repair(ctx context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	w, err := want(r, c)
	if err != nil || w == nil {
		return err
	}
	return connected(r, c, func(v *view) error {
		if err := v.conn.Verify(v.rules); errors.Is(err, fault.NotFound) {
			if err := v.rules.Define(); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if _, err := v.conn.Decide(ctx, v.rules, func() (nft.Change, error) { return v.install(w.elements) }); err != nil {
			return err
		}
		return w.finish(r, c)
	})
}

func status(_ context.Context, _ *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	return connectedTo(table(c), func(v *view) error {
		if err := v.conn.NAT(c.NFTTable + "-trial"); err != nil {
			return cni.Errorf(cni.CodeUnavailable, "address translation by nftables: %w", err)
		}
		return nil
	})
}

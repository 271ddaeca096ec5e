package portmap

import (
	"context"
	"errors"
	"slices"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
)

func (p *plugin) del(ctx context.Context, r *cni.Request, c *Config) error {
	known := knownElements(r, c)
	return p.connected(r, c, func(v *view) error {
		return v.remove(ctx, r, func() (nft.Change, error) { return v.uninstall(known) })
	})
}

// knownElements returns the elements that ADD must have made from the same
// configuration, or nil if that cannot be derived.
func knownElements(r *cni.Request, c *Config) []nft.Element {
	if err := c.complete(); err != nil {
		r.Log.Warn("removing port mappings of an invalid configuration", "err", err)
		return nil
	}
	if r.PrevResult == nil {
		return nil
	}
	forwards, err := c.forwards(r.PrevResult, r.IfName)
	if err != nil {
		r.Log.Warn("looking for port mappings by their owner", "err", err)
		return nil
	}
	return c.elements(forwards, nft.Owner(r.Network, r.Attachment.String()))
}

// uninstall plans the removal of what the attachment owns. If its summary confirms
// that known is all of that, nothing else is looked up. If nothing is known and there
// is no summary, as for most Pods, there is nothing to remove. Otherwise the table is
// listed.
func (v *view) uninstall(known []nft.Element) (nft.Change, error) {
	switch {
	case len(known) == 0:
		own, err := v.conn.Get(v.rules, owners, summary(v.owner, nil).Key)
		if err != nil || own[0] == nil {
			return nft.Change{}, err
		}
	case len(known) < maxAsked:
		known := append(slices.Clone(known), summary(v.owner, known))
		found, err := v.find(known)
		if err != nil {
			return nft.Change{}, err
		}
		complete := true
		for i, h := range found {
			complete = complete && h != nil && same(known[i], *h)
		}
		if complete {
			return nft.Change{Remove: known}, nil
		}
	}
	return v.owned(func(owner string) bool { return owner == v.owner })
}

// owned plans the removal of every element whose owner matches.
func (v *view) owned(matches func(owner string) bool) (change nft.Change, err error) {
	all, err := v.conn.List(v.rules)
	for _, e := range all {
		if matches(e.Owner) {
			change.Remove = append(change.Remove, e)
		}
	}
	return change, err
}

// remove applies the planned removal and deletes the conntrack entries of what it
// forwarded.
func (v *view) remove(ctx context.Context, r *cni.Request, plan func() (nft.Change, error)) error {
	made, err := v.conn.Decide(ctx, v.rules, plan)
	if ferr := forgetAfter(made.Remove); ferr != nil {
		r.Log.Warn("tracked connections of UDP may still lead to the container", "err", ferr)
	}
	return err
}

// undo removes those of the elements that are still the attachment's. What an earlier
// ADD left stays, and so does the unknown summary, which says that it cannot be
// derived.
func (v *view) undo(ctx context.Context, elements []nft.Element) error {
	return v.plugin.connectedTo(v.rules, func(v *view) error {
		_, err := v.conn.Decide(ctx, v.rules, func() (change nft.Change, err error) {
			found, err := v.find(elements)
			for i, h := range slices.Backward(found) { // backward, because the summary goes last
				if h != nil && h.Owner != "" && same(elements[i], *h) && !isUnknown(*h) {
					change.Remove = append(change.Remove, *h)
				}
			}
			return change, err
		})
		return err
	})
}

func (p *plugin) gc(ctx context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		r.Log.Warn("collecting port mappings of an invalid configuration", "err", err)
	}
	keep := map[string]bool{}
	for _, a := range r.Valid {
		keep[nft.Owner(r.Network, a.String())] = true
	}
	return p.connected(r, c, func(v *view) error {
		return v.remove(ctx, r, func() (nft.Change, error) {
			change, err := v.owned(func(owner string) bool { return nft.OfNetwork(owner, r.Network) && !keep[owner] })
			if err != nil {
				return nft.Change{}, err
			}
			gone, err := v.goneInterfaces()
			change.Remove = append(change.Remove, gone...)
			return change, err
		})
	})
}

// Teardown removes the configuration's nftables table with every mapping in it, and
// closes the interfaces that were opened for 127.0.0.1. It is for an owner who knows
// that no container uses them any more. It succeeds if there is no table.
func Teardown(_ context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	rules := table(&c)
	// The guard goes last.
	err := (&plugin{}).connectedTo(rules, func(v *view) error {
		open, err := v.list(localnet)
		errs := []error{err}
		for _, e := range open {
			errs = append(errs, closeLocalnet(e))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	return rules.Delete()
}

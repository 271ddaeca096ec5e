package portmap

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// wanted is what an attachment should have on the host.
type wanted struct {
	forwards []forward
	elements []nft.Element
	ifaces   []string // that 127.0.0.1 is forwarded by
	families []bool   // those that forwarding is needed for: true is IPv4
}

// want returns what the request asks for; nil when it asks for nothing.
func want(r *cni.Request, c *Config) (*wanted, error) {
	forwards, err := c.forwards(r.PrevResult, r.IfName)
	if err != nil || len(forwards) == 0 {
		return nil, err
	}
	w := &wanted{forwards: forwards, elements: c.elements(forwards, nft.Owner(r.Network, r.Attachment.String()))}
	v4, v6 := false, false
	for _, f := range forwards {
		v4, v6 = v4 || f.container.Addr().Is4(), v6 || f.container.Addr().Is6()
	}
	if v6 {
		w.families = append(w.families, false)
	}
	if !v4 {
		return w, nil
	}
	w.families = append(w.families, true)
	if !*c.SNAT {
		return w, nil
	}
	name, err := interfaceTo(forwards)
	if err != nil || name == "" {
		return w, err
	}
	w.ifaces = []string{name}
	w.elements = append(w.elements, nft.Element{Set: localnet, Key: nft.IfName(name)})
	return w, nil
}

func add(ctx context.Context, r *cni.Request, c *Config) (*cni.Result, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if r.PrevResult == nil {
		return nil, cni.Errorf(cni.CodeConfig, "portmap needs the result of the plugin that made the interface (prevResult)")
	}
	c.tell(r.Log)
	w, err := want(r, c)
	if err != nil || w == nil {
		return nil, err
	}
	return nil, connected(r, c, func(v *view) error {
		made, err := v.conn.Decide(ctx, v.rules, func() (nft.Change, error) { return v.install(w.elements) })
		r.Undo("port mappings", func(ctx context.Context) error { return v.undo(ctx, made.Add) })
		if err != nil {
			return err
		}
		return w.finish(r, c)
	})
}

// connected calls fn with the table. The connection belongs to the call.
func connected(r *cni.Request, c *Config, fn func(*view) error) error {
	return connectedTo(table(c), func(v *view) error {
		v.owner = nft.Owner(r.Network, r.Attachment.String())
		return fn(v)
	})
}

func connectedTo(rules *nft.Ruleset, fn func(*view) error) error {
	conn, err := nft.Open()
	if err != nil {
		return err
	}
	return errors.Join(fn(&view{conn: conn, rules: rules}), conn.Close())
}

// finish does what is not in the table: it opens the host for what the rules
// forward, and makes connection tracking forget where that went before.
func (w *wanted) finish(r *cni.Request, c *Config) error {
	for _, v4 := range w.families {
		if err := setSysctl(forwardingOf(v4), "1"); err != nil {
			return fmt.Errorf("switching forwarding on: %w", err)
		}
	}
	for _, name := range w.ifaces {
		if err := openLocalnet(c, name); err != nil {
			return err
		}
	}
	if err := forgetBefore(w.forwards); err != nil {
		r.Log.Warn("connections of UDP that were tracked before the ports were forwarded may go on elsewhere", "err", err)
	}
	return nil
}

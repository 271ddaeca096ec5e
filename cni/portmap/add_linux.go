package portmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// wanted is what an attachment should have on the host.
type wanted struct {
	forwards []forward
	elements []nft.Element
	ipv4     []bool // one entry for each address family to forward: whether it is IPv4
	open     string // the interface by which 127.0.0.1 is forwarded, if any
}

// want returns what the request asks for, or nil if it asks for nothing.
func want(r *cni.Request, c *Config) (*wanted, error) {
	forwards, err := c.forwards(r.PrevResult, r.IfName)
	if err != nil || len(forwards) == 0 {
		return nil, err
	}
	w := &wanted{forwards: forwards, elements: c.elements(forwards, nft.Owner(r.Network, r.Attachment.String()))}
	containers := map[bool]netip.Addr{}
	for _, f := range forwards {
		containers[f.container.Is4()] = f.container
	}
	w.ipv4 = slices.Collect(maps.Keys(containers))
	if !*c.SNAT {
		return w, nil
	}
	return w, w.addInterfaces(containers)
}

// addInterfaces adds the elements that attachments share: those of the interfaces
// towards the container.
func (w *wanted) addInterfaces(containers map[bool]netip.Addr) (err error) {
	links, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, links.Close()) }()
	names := map[string]bool{}
	for v4, a := range containers {
		name, err := interfaceTo(links, a)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if v4 {
			w.open = name
		}
		names[name] = true
	}
	for name := range names {
		w.elements = append(w.elements, nft.Element{Set: back, Key: append(nft.IfName(name), nft.IfName(name)...)})
	}
	if w.open != "" {
		w.elements = append(w.elements, nft.Element{Set: localnet, Key: nft.IfName(w.open)})
	}
	return nil
}

func (p *plugin) add(ctx context.Context, r *cni.Request, c *Config) (*cni.Result, error) {
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
	return nil, p.connected(r, c, func(v *view) error {
		made, err := v.conn.Decide(ctx, v.rules, func() (nft.Change, error) { return v.install(w.elements) })
		r.Undo("port mappings", func(ctx context.Context) error { return v.undo(ctx, made.Add) })
		if err != nil {
			return err
		}
		return w.finish(r)
	})
}

// connected calls fn with the table. The connection is valid only during the call.
func (p *plugin) connected(r *cni.Request, c *Config, fn func(*view) error) error {
	return p.connectedTo(table(c), func(v *view) error {
		v.owner = nft.Owner(r.Network, r.Attachment.String())
		return fn(v)
	})
}

// finish does what is outside the table: it sets the sysctls that the forwarding
// needs, and deletes conntrack entries that lead to earlier destinations.
func (w *wanted) finish(r *cni.Request) error {
	for _, v4 := range w.ipv4 {
		if err := sysctl.Ensure(sysctl.Forwarding(v4), "1"); err != nil {
			return fmt.Errorf("switching forwarding on: %w", err)
		}
	}
	if w.open != "" {
		if err := openLocalnet(w.open); err != nil {
			return err
		}
	}
	if err := forgetBefore(w.forwards); err != nil {
		r.Log.Warn("connections of UDP that were tracked before the ports were forwarded may go on elsewhere", "err", err)
	}
	return nil
}

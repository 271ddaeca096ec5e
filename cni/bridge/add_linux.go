package bridge

import (
	"context"
	"errors"
	"slices"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// add touches the host only after the container has been checked, and the container
// only when the host is ready for it.
func (p *plugin) add(ctx context.Context, r *cni.Request, c *Config) (*cni.Result, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	c.tell(r.Log)
	w, err := p.open(r)
	if err != nil {
		return nil, err
	}
	defer p.closeWiring(w)
	id := identify(r.Network, r.Attachment)
	// This comes before IPAM: the rollback of an ADD that finds the container already
	// connected must not release the addresses of that connection.
	if err := w.refuseTaken(r, id); err != nil {
		return nil, err
	}
	todo, err := allocate(ctx, r, c)
	if err != nil {
		return nil, err
	}
	far, err := w.build(r, c, id, todo)
	if err != nil {
		return nil, err
	}
	if !c.DisableContainerInterface {
		if err := w.configure(ctx, r, far, todo, c.EnableDAD); err != nil {
			return nil, err
		}
	}
	links, err := w.awaitPort(ctx, c, id, todo)
	if err != nil {
		return nil, err
	}
	if len(todo.ips) > 0 { // now that the bridge forwards it
		if err := w.inside.Do(rtnl.Announce(far)); err != nil {
			return nil, err
		}
	}
	todo.result.Interfaces = describe(r.NetNS, slices.Insert(links, guest, far))
	return cni.Merge(r.PrevResult, todo.result), nil
}

// refuseTaken refuses names that are taken, but first finishes a pending removal of
// the same attachment. (An ioctl would not wait for the kernel's lock on links, as
// these requests do; but for a name that does not exist it makes the kernel execute
// modprobe, twice, and load any module of that name.)
func (w *wiring) refuseTaken(r *cni.Request, id identity) error {
	l, err := w.links.Link(id.host)
	switch {
	case errors.Is(err, fault.NotFound):
	case err != nil:
		return err
	case l.Alias != id.leaving():
		return cni.Errorf(cni.CodeExists, "interface %q of an earlier ADD exists on the host: DEL removes it", id.host)
	default:
		if err := deleteLink(w.links, l); err != nil {
			return err
		}
	}
	_, err = w.inside.Link(r.IfName)
	switch {
	case errors.Is(err, fault.NotFound):
		return nil
	case err != nil:
		return err
	}
	return cni.Errorf(cni.CodeExists, "interface %q (CNI_IFNAME) exists in the container already", r.IfName)
}

// allocate calls the IPAM plugin and makes the plan from its result.
func allocate(ctx context.Context, r *cni.Request, c *Config) (*plan, error) {
	given := &cni.Result{}
	if c.IPAM.Type != "" {
		var err error
		if given, err = r.Delegate(c.IPAM.Type).Add(ctx); err != nil {
			return nil, err
		}
		if len(given.IPs) == 0 {
			return nil, cni.Errorf(cni.CodeDelegate, "IPAM plugin %q gave no address", c.IPAM.Type)
		}
	}
	return makePlan(c, given)
}

// build creates everything except the configuration inside the container, whose
// interface is still down, and returns that interface.
func (w *wiring) build(r *cni.Request, c *Config, id identity, todo *plan) (far *rtnl.Link, err error) {
	br, err := w.ensureBridge(c)
	if err != nil {
		return nil, err
	}
	if len(todo.gateways) > 0 {
		if err = w.ensureGateway(br, c, todo.gateways); err != nil {
			return nil, err
		}
	}
	if far, err = w.connect(r, c, id, br); err != nil {
		return nil, err
	}
	return far, w.addRules(r, c, id, todo, far)
}

// carrierTime is how long the kernel may take to detect the carrier once both ends
// are up.
const carrierTime = 3 * time.Second

// awaitPort waits until the bridge forwards the container's frames, and returns the
// host's interfaces as they are then: the bridge, which a new port may have changed,
// the host end and, with a VLAN, the gateway.
func (w *wiring) awaitPort(ctx context.Context, c *Config, id identity, todo *plan) ([]*rtnl.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, carrierTime)
	defer cancel()
	names := []string{c.Bridge, id.host}
	if c.VLAN != 0 && len(todo.gateways) > 0 {
		names = append(names, c.gatewayName())
	}
	for {
		links, err := w.links.Links(names...)
		if err != nil {
			return nil, err
		}
		if port := links[1]; c.DisableContainerInterface || port.Operational && !port.Disabled {
			return links, nil
		}
		select {
		case <-ctx.Done():
			return nil, cni.Errorf(cni.CodeTryAgain, "interface %q on the host gets no carrier: %w", id.host, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// connect creates the pair, with its far end in the container, in a single request,
// so that an end is never left in the wrong namespace.
func (w *wiring) connect(r *cni.Request, c *Config, id identity, br *rtnl.Link) (far *rtnl.Link, err error) {
	mac, err := c.mac()
	if err != nil {
		return nil, err
	}
	if mac == nil {
		mac = newMAC()
	}
	near, err := w.links.AddPair(&rtnl.Pair{
		Name: id.host, Peer: r.IfName, Master: br.Index, MTU: c.MTU, PeerMAC: mac, PeerNS: r.NetNSFD(),
		Alias: id.alias, Hairpin: c.HairpinMode, Isolated: c.PortIsolation, Up: !c.filtersVLANs(),
	})
	if errors.Is(err, fault.AlreadyExists) {
		return nil, cni.Errorf(cni.CodeExists, "interface %q or %q was made by another call just now: %w", id.host, r.IfName, err)
	}
	r.Undo("veth pair "+id.host, func(context.Context) error { return undoPair(id) })
	if err != nil {
		return nil, err
	}
	if c.filtersVLANs() {
		if err := w.setVLANs(br, near, c); err != nil {
			return nil, err
		}
	}
	if err := ignoreAdvertisements(id.host); err != nil {
		return nil, err
	}
	return &rtnl.Link{Name: r.IfName, Index: near.Peer, MTU: near.MTU, MAC: mac}, nil
}

// undoPair removes the pair over a connection of its own: that of the ADD is already
// closed when the rollback runs.
func undoPair(id identity) error {
	links, err := rtnl.Open()
	if err != nil {
		return err
	}
	return errors.Join(disconnect(links, id, nil), links.Close())
}

// addRules enables forwarding and adds the rules' elements, as configured.
func (w *wiring) addRules(r *cni.Request, c *Config, id identity, todo *plan, far *rtnl.Link) error {
	for _, ip := range todo.ips {
		if c.IsGateway || c.IPMasq {
			if err := sysctl.Ensure(sysctl.Forwarding(ip.Addr().Is4()), "1"); err != nil {
				return err
			}
		}
	}
	elements := groups(c, id, todo.ips, far.MAC)
	if len(elements) == 0 {
		return nil
	}
	r.Undo("nftables elements", func(context.Context) error {
		rules, err := nft.Open()
		if err != nil {
			return err
		}
		return errors.Join(removeRules(rules, c, id), rules.Close())
	})
	return w.rules.Put(elements...)
}

// describe returns the interfaces of the result.
func describe(netns string, links []*rtnl.Link) (out []*cni.Interface) {
	for i, l := range links {
		nic := &types100.Interface{Name: l.Name, Mac: l.MAC.String(), Mtu: l.MTU}
		if i == guest {
			nic.Sandbox = netns
		}
		out = append(out, nic)
	}
	return out
}

// deleteLink removes a link and waits for that. It succeeds if there is none.
func deleteLink(links *rtnl.Conn, l *rtnl.Link) error {
	if err := links.Do(rtnl.Delete(l)); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

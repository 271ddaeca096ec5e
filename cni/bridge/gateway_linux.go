package bridge

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// ensureGateway gives the bridge, or the interface of the VLAN, the gateway's
// addresses.
func (h *host) ensureGateway(br *rtnl.Link, c *Config, gateways []netip.Prefix) error {
	dev := br
	if c.VLAN != 0 {
		var err error
		if dev, err = h.ensureVLANGateway(br, c); err != nil {
			return fmt.Errorf("the gateway of vlan %d: %w", c.VLAN, err)
		}
	}
	have, err := h.links.Addresses(dev)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(have), func(a rtnl.Address) bool { return slices.Contains(gateways, a.Prefix) })
	added := false
	for _, want := range gateways {
		if slices.ContainsFunc(have, func(a rtnl.Address) bool { return a.Prefix == want }) {
			continue
		}
		if err := h.replaceAddresses(dev, c.ForceAddress, want, others); err != nil {
			return err
		}
		if err := h.links.Do(rtnl.AddAddress(dev, want, false)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		added = true
	}
	if added && dev == br {
		// A bridge that somebody else made may have a port's MAC address until then.
		err = h.links.Do(rtnl.Announce(br))
	}
	return err
}

// replaceAddresses removes the addresses that the gateway's replaces, or reports
// them.
func (h *host) replaceAddresses(dev *rtnl.Link, force bool, want netip.Prefix, others []rtnl.Address) error {
	for _, a := range others {
		overlaps := a.Prefix.Masked().Overlaps(want.Masked())
		sameFamily := a.Prefix.Addr().Is4() == want.Addr().Is4()
		switch {
		case !force && overlaps:
			return cni.Errorf(cni.CodeConfig, "%q has the address %s already, which overlaps with the gateway's %s: set forceAddress to replace it", dev.Name, a.Prefix, want)
		case force && (overlaps || sameFamily && want.Addr().Is4()):
			err := h.links.Do(rtnl.RemoveAddress(dev, a.Prefix))
			if err != nil && !rtnl.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// ensureVLANGateway returns the interface that has the gateway's addresses in the
// VLAN: the host's end of a pair whose other end is a port of the bridge. An
// interface of that name which somebody else made is as good.
func (h *host) ensureVLANGateway(br *rtnl.Link, c *Config) (*rtnl.Link, error) {
	name, port := c.gatewayName(), gatewayPort(c)
	dev, err := h.links.Link(name)
	if err == nil && dev.Up {
		return dev, nil
	}
	if errors.Is(err, fault.NotFound) {
		_, err = h.links.AddPair(&rtnl.Pair{
			Name: port, Peer: name, Master: br.Index, MTU: c.MTU, PeerMAC: newMAC(), PeerNS: -1, Alias: gatewayPrefix + name,
		})
		if errors.Is(err, fault.AlreadyExists) { // another ADD is faster
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := h.settleGateway(br, c, port); err != nil {
		return nil, err
	}
	if err := ignoreAdvertisements(name); err != nil {
		return nil, err
	}
	if err := h.rules.Add(gatewayElement(c)); err != nil {
		return nil, err
	}
	if dev, err = h.links.Link(name); err != nil {
		return nil, err
	}
	return dev, h.links.Do(rtnl.Up(dev)) // last: who sees it up has all of it
}

// settleGateway puts the gateway's port into its VLAN, also for an ADD that was
// killed or is at it. Nothing is done for a port that somebody else made.
func (h *host) settleGateway(br *rtnl.Link, c *Config, name string) error {
	port, err := h.links.Link(name)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	access := *c
	access.VLANTrunk = nil
	return h.setVLANs(br, port, &access)
}

// gatewayPort returns the name of the bridge's port to the gateway of the VLAN.
func gatewayPort(c *Config) string {
	sum := sha256.Sum256([]byte(c.gatewayName()))
	return fmt.Sprintf("vgw%x", sum[:5])
}

// setVLANs puts a port into the VLANs of the configuration and brings it up.
func (h *host) setVLANs(br, port *rtnl.Link, c *Config) error {
	if br.DefaultVLAN != 0 && !c.PreserveDefaultVLAN {
		def := rtnl.VLANs{First: br.DefaultVLAN, Last: br.DefaultVLAN}
		if err := h.links.Do(rtnl.RemoveVLANs(port, def)); err != nil && !rtnl.IsNotFound(err) {
			return err
		}
	}
	vlans, err := c.portVLANs()
	if err != nil {
		return err
	}
	return h.links.Do(rtnl.AddVLANs(port, vlans...), rtnl.Up(port))
}

// portVLANs returns the VLANs of a port, the native one last.
func (c *Config) portVLANs() (out []rtnl.VLANs, err error) {
	for _, t := range c.VLANTrunk {
		ids, err := t.ids()
		if err != nil {
			return nil, err
		}
		for _, r := range ids {
			out = append(out, rtnl.VLANs{First: r.first, Last: r.last})
		}
	}
	if id := c.native(); id != 0 {
		out = append(out, rtnl.VLANs{First: id, Last: id, Native: true})
	}
	return out, nil
}

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
	"github.com/nodekit-project/nodekit/internal/nlsock"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// ensureGateway assigns the gateway's addresses to the bridge or to the VLAN's
// interface.
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
	for _, want := range gateways {
		if slices.ContainsFunc(have, func(a rtnl.Address) bool { return a.Prefix == want }) {
			continue
		}
		if err := h.replaceAddresses(dev, c.ForceAddress, want, others); err != nil {
			return err
		}
		requests := []*nlsock.Message{rtnl.AddAddress(dev, want, false)}
		if dev == br {
			// Until then a bridge that somebody else created may have a port's MAC
			// address. Both go in one write, or an ADD killed in between would leave
			// it so for good.
			requests = append(requests, rtnl.Announce(br))
		}
		if err := h.links.Do(requests...); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// replaceAddresses removes the addresses that the gateway's replaces or, without
// force, returns an error for them.
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
// VLAN: the host end of a pair whose other end is a port of the bridge. An interface
// of that name that somebody else created is as good. Every ADD verifies all of it,
// because others set ports down and flush rules.
func (h *host) ensureVLANGateway(br *rtnl.Link, c *Config) (*rtnl.Link, error) {
	dev, err := h.links.Link(c.gatewayName())
	if errors.Is(err, fault.NotFound) {
		dev, err = h.makeVLANGateway(br, c)
	}
	if err != nil {
		return nil, err
	}
	if err := h.settleGateway(br, c, dev.Up); err != nil {
		return nil, err
	}
	if err := h.rules.Add(gatewayElement(c)); err != nil {
		return nil, err
	}
	if dev.Up {
		return dev, nil
	}
	if err := errors.Join(ignoreAdvertisements(dev.Name), useAtOnce(dev.Name, c)); err != nil {
		return nil, err
	}
	return dev, h.links.Do(rtnl.Up(dev)) // last: a gateway that is up is complete
}

func (h *host) makeVLANGateway(br *rtnl.Link, c *Config) (*rtnl.Link, error) {
	name := c.gatewayName()
	_, err := h.links.AddPair(&rtnl.Pair{
		Name: gatewayPortName(c), Peer: name, Master: br.Index, MTU: c.MTU, PeerMAC: newMAC(), PeerNS: -1, Alias: gatewayPrefix + name,
	})
	if err != nil && !errors.Is(err, fault.AlreadyExists) { // otherwise another ADD was faster
		return nil, err
	}
	return h.links.Link(name)
}

// settleGateway adds the gateway's port to its VLAN, also on behalf of an ADD that
// was killed or is still running; done says that it was complete before, so that only
// losses are restored. Networks share the port: other VLANs of a complete one stay.
func (h *host) settleGateway(br *rtnl.Link, c *Config, done bool) error {
	port, err := h.gatewayPort(c)
	if err != nil || port == nil {
		return err
	}
	if port.Master != br.Index {
		if err := h.links.Do(rtnl.SetMaster(port, br.Index)); err != nil {
			return err
		}
		done = false // it now has the VLANs of a new port
	}
	if !done {
		access := *c
		access.VLANTrunk = nil
		return h.setVLANs(br, port, &access)
	}
	lacks, err := h.lacksVLAN(br, port, c)
	if err != nil {
		return err
	}
	var requests []*nlsock.Message
	if lacks {
		requests = append(requests, rtnl.AddVLANs(port, rtnl.VLANs{First: uint16(c.VLAN), Last: uint16(c.VLAN), Native: true}))
	}
	if !port.Up {
		requests = append(requests, rtnl.Up(port))
	}
	return h.links.Do(requests...)
}

// checkGatewayPort reports what settleGateway would mend.
func (h *host) checkGatewayPort(br *rtnl.Link, c *Config) error {
	port, err := h.gatewayPort(c)
	if err != nil || port == nil {
		return err
	}
	if port.Master != br.Index {
		return fmt.Errorf("the gateway's interface %q is not a port of bridge %q", port.Name, br.Name)
	}
	if !port.Up {
		return fmt.Errorf("the port %q of the gateway is down", port.Name)
	}
	lacks, err := h.lacksVLAN(br, port, c)
	if lacks {
		err = fmt.Errorf("the port %q of the gateway is not in VLAN %d", port.Name, c.VLAN)
	}
	return err
}

// lacksVLAN reports whether the gateway's port is not in its VLAN as it should be.
func (h *host) lacksVLAN(br, port *rtnl.Link, c *Config) (bool, error) {
	missing, _, err := h.compareVLANs(br, port, &Config{VLAN: c.VLAN})
	return len(missing) > 0, err
}

// gatewayPort returns the bridge's port to the VLAN's gateway, or nil if the gateway
// is not a pair of this plugin, so that its port is unknown.
func (h *host) gatewayPort(c *Config) (*rtnl.Link, error) {
	port, err := h.links.Link(gatewayPortName(c))
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	return port, err
}

// gatewayPortName returns the name of the bridge's port to the VLAN's gateway.
func gatewayPortName(c *Config) string {
	sum := sha256.Sum256([]byte(c.gatewayName()))
	return fmt.Sprintf("vgw%x", sum[:5])
}

// setVLANs adds a port to the VLANs of the configuration and brings it up.
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

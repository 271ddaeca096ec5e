package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nlsock"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// repair restores what check would find missing and nobody would have removed on
// purpose: the bridge, the gateway's addresses, the port with its options and VLANs,
// MTUs, link states, routes and rules. It leaves the container's addresses alone, and a
// pair that is gone needs a new ADD.
func (p *plugin) repair(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	want, err := expect(r, c)
	if err != nil {
		return err
	}
	w, err := p.open(r)
	if err != nil {
		return err
	}
	defer p.closeWiring(w)
	port, err := ownLink(w.links, want.identity, r.Log)
	if err != nil {
		return err
	}
	if port == nil || port.Alias == want.leaving() {
		return cni.Errorf(cni.CodeNotAsExpected, "interface %q on the host is gone, which only a new ADD can mend", want.host)
	}
	br, err := w.ensureBridge(c)
	if err != nil {
		return err
	}
	if len(want.gateways) > 0 {
		if err := w.ensureGateway(br, c, want.gateways); err != nil {
			return err
		}
	}
	return errors.Join(w.repairPort(br, port, want, c), w.repairRules(want, c), w.repairGuest(r, want, c))
}

func (w *wiring) repairPort(br, port *rtnl.Link, want *expected, c *Config) error {
	var requests []*nlsock.Message
	if port.Master != br.Index {
		requests = append(requests, rtnl.SetMaster(port, br.Index))
		port.Hairpin, port.Isolated = false, false // the defaults of a new port
	}
	// Setting options also enables a port that has a carrier.
	if c.HairpinMode && !port.Hairpin || c.PortIsolation && !port.Isolated || port.Disabled {
		requests = append(requests, rtnl.SetPort(port, c.HairpinMode || port.Hairpin, c.PortIsolation || port.Isolated))
	}
	if want.resized(port) {
		requests = append(requests, rtnl.SetMTU(port, want.portMTU))
	}
	if err := w.links.Do(requests...); err != nil {
		return err
	}
	port.Master = br.Index
	if c.filtersVLANs() {
		if err := w.repairVLANs(br, port, c); err != nil {
			return err
		}
	}
	if port.Up {
		return nil
	}
	return w.links.Do(rtnl.Up(port))
}

func (w *wiring) repairVLANs(br, port *rtnl.Link, c *Config) error {
	missing, extra, err := w.compareVLANs(br, port, c)
	if err != nil {
		return err
	}
	var requests []*nlsock.Message
	if len(extra) > 0 {
		requests = append(requests, rtnl.RemoveVLANs(port, extra...))
	}
	if len(missing) > 0 {
		requests = append(requests, rtnl.AddVLANs(port, missing...))
	}
	return w.links.Do(requests...)
}

func (w *wiring) repairRules(want *expected, c *Config) error {
	for _, ip := range want.ips {
		if c.IsGateway || c.IPMasq {
			if err := sysctl.Ensure(sysctl.Forwarding(ip.Addr().Is4()), "1"); err != nil {
				return err
			}
		}
	}
	if w.checkRules(want, c) == nil {
		return nil
	}
	mac, err := macOf(want.nic)
	if err != nil {
		return err
	}
	return w.rules.Put(groups(c, want.identity, want.ips, mac)...)
}

// repairGuest brings the container's end up, lowers an MTU that was raised, and restores
// the routes that the kernel dropped when the end went down.
func (w *wiring) repairGuest(r *cni.Request, want *expected, c *Config) error {
	if c.DisableContainerInterface {
		return nil
	}
	l, err := w.inside.Link(want.nic.Name)
	if err != nil {
		return err
	}
	if !l.Up {
		if err := w.inside.Do(rtnl.AnnounceARP(l)); err != nil {
			return err
		}
	}
	missing, err := w.inside.MissingRoutes(r.PrevResult.Routes)
	if err != nil {
		return err
	}
	routes, err := rtnl.RoutesBy(l, missing)
	if err != nil {
		return err
	}
	var requests []*nlsock.Message
	if want.raised(l) {
		requests = append(requests, rtnl.SetMTU(l, want.mtu))
	}
	for i := range routes {
		requests = append(requests, rtnl.AddRoute(&routes[i]))
	}
	return w.inside.Do(requests...)
}

// macOf returns the MAC address of the result's interface.
func macOf(nic *cni.Interface) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(nic.Mac)
	if err != nil && nic.Mac != "" {
		return nil, fmt.Errorf("prevResult, interface %q: %w", nic.Name, err)
	}
	return mac, nil
}

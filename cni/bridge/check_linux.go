package bridge

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// check compares the kernel with the final result of ADD, which later plugins of the
// chain may have changed. It changes nothing and reports everything that is missing.
func (p *plugin) check(_ context.Context, r *cni.Request, c *Config) error {
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
	err = errors.Join(
		w.checkGuest(want, c),
		w.checkRoutes(r.PrevResult.Routes),
		w.checkHost(want, c),
		w.checkRules(want, c),
		checkForwarding(want, c),
	)
	if err != nil {
		return cni.Errorf(cni.CodeNotAsExpected, "%w", err)
	}
	return nil
}

// expected is what the final result says about the attachment.
type expected struct {
	identity
	nic      *cni.Interface // in the container
	ips      []netip.Prefix
	gateways []netip.Prefix

	mtu     int // of the interface in the container, at most; 0 if nothing says it
	portMTU int // of that on the host; 0 if nothing says it
}

func expect(r *cni.Request, c *Config) (*expected, error) {
	mine := slices.IndexFunc(r.PrevResult.Interfaces, func(nic *cni.Interface) bool { return nic.Name == r.IfName && nic.Sandbox != "" })
	if mine < 0 {
		return nil, cni.Errorf(cni.CodeConfig, "prevResult has no interface %q in a sandbox", r.IfName)
	}
	out := &expected{identity: identify(r.Network, r.Attachment), nic: r.PrevResult.Interfaces[mine]}
	out.mtu, out.portMTU = cmp.Or(out.nic.Mtu, c.MTU), c.MTU // results before 1.1.0 have no MTU
	for _, nic := range r.PrevResult.Interfaces {
		if nic.Name == out.host && nic.Sandbox == "" {
			out.portMTU = cmp.Or(nic.Mtu, c.MTU)
		}
	}
	for _, ip := range r.PrevResult.IPs {
		if ip.Interface == nil || *ip.Interface != mine {
			continue
		}
		if err := out.addIP(c, ip); err != nil {
			return nil, cni.Errorf(cni.CodeConfig, "prevResult: %w", err)
		}
	}
	return out, nil
}

func (e *expected) addIP(c *Config, ip *types100.IPConfig) error {
	address, err := rtnl.PrefixOf(ip.Address)
	if err != nil {
		return err
	}
	e.ips = append(e.ips, address)
	if !c.IsGateway {
		return nil
	}
	gateway, err := gatewayOf(address, ip.Gateway)
	e.gateways = append(e.gateways, gateway)
	return err
}

func (w *wiring) checkGuest(want *expected, c *Config) error {
	l, err := w.inside.Link(want.nic.Name)
	if err != nil {
		return fmt.Errorf("interface %q in the container: %w", want.nic.Name, err)
	}
	var errs []error
	if !l.Up && !c.DisableContainerInterface {
		errs = append(errs, fmt.Errorf("interface %q in the container is down", l.Name))
	}
	if mac := want.nic.Mac; mac != "" && !rtnl.SameMAC(mac, l.MAC) {
		errs = append(errs, fmt.Errorf("interface %q in the container has the MAC address %s instead of %s", l.Name, l.MAC, mac))
	}
	if want.raised(l) {
		errs = append(errs, fmt.Errorf("interface %q in the container has the MTU %d instead of %d", l.Name, l.MTU, want.mtu))
	}
	return errors.Join(append(errs, hasAddresses(w.inside, l, want.ips))...)
}

// raised reports whether the container sends longer packets than it should. A smaller MTU
// is no fault: upstream's tuning plugin sets one and does not write it into the result.
func (e *expected) raised(l *rtnl.Link) bool { return e.mtu > 0 && l.MTU > e.mtu }

// resized reports whether the port does not forward packets of the length that it should.
func (e *expected) resized(port *rtnl.Link) bool { return e.portMTU > 0 && port.MTU != e.portMTU }

func hasAddresses(conn *rtnl.Conn, l *rtnl.Link, want []netip.Prefix) error {
	missing, err := conn.MissingAddresses(l, want)
	errs := []error{err}
	for _, ip := range missing {
		errs = append(errs, fmt.Errorf("interface %q lacks the address %s", l.Name, ip))
	}
	return errors.Join(errs...)
}

func (w *wiring) checkRoutes(routes []*types.Route) error {
	missing, err := w.inside.MissingRoutes(routes)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range missing {
		via := ""
		if r.GW != nil {
			via = " by " + r.GW.String()
		}
		errs = append(errs, fmt.Errorf("the route to %s%s is missing in the container", &r.Dst, via))
	}
	return errors.Join(errs...)
}

func (w *wiring) checkHost(want *expected, c *Config) error {
	br, err := w.links.Link(c.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %q: %w", c.Bridge, err)
	}
	var errs []error
	complain := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	complain(br.Kind != "bridge", "interface %q is no bridge", c.Bridge)
	complain(!br.Up, "bridge %q is down", c.Bridge)
	complain(c.PromiscMode && !br.Promisc, "bridge %q is not promiscuous", c.Bridge)
	complain(c.filtersVLANs() && !br.VLANFiltering, "bridge %q does not filter VLANs", c.Bridge)
	return errors.Join(append(errs, w.checkPort(br, want, c), w.checkGateway(br, want, c))...)
}

func (w *wiring) checkPort(br *rtnl.Link, want *expected, c *Config) error {
	port, err := w.links.Link(want.host)
	if err != nil {
		return fmt.Errorf("interface %q on the host: %w", want.host, err)
	}
	if port.Alias == want.leaving() {
		return fmt.Errorf("interface %q on the host is being removed", port.Name)
	}
	if !want.owns(port.Alias) { // DEL would leave it, but release its addresses
		return fmt.Errorf("interface %q on the host has the alias %q instead of %q, so it is not known to be the attachment's",
			port.Name, port.Alias, want.alias)
	}
	if port.Master != br.Index {
		return fmt.Errorf("interface %q on the host is not a port of bridge %q", port.Name, c.Bridge)
	}
	var errs []error
	complain := func(bad bool, what string) {
		if bad {
			errs = append(errs, fmt.Errorf("interface %q on the host %s", port.Name, what))
		}
	}
	complain(want.resized(port), fmt.Sprintf("has the MTU %d instead of %d", port.MTU, want.portMTU))
	complain(!port.Up, "is down")
	complain(port.Up && port.Disabled && !c.DisableContainerInterface, "is a disabled port of its bridge")
	// Options that somebody has enabled in addition are not an error.
	complain(c.HairpinMode && !port.Hairpin, "has lost its hairpin mode")
	complain(c.PortIsolation && !port.Isolated, "has lost its isolation")
	return errors.Join(append(errs, w.checkVLANs(br, port, c))...)
}

func (w *wiring) checkVLANs(br, port *rtnl.Link, c *Config) error {
	if !c.filtersVLANs() {
		return nil
	}
	missing, extra, err := w.compareVLANs(br, port, c)
	if err != nil {
		return err
	}
	var errs []error
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("interface %q on the host is not in VLAN %d as it should be", port.Name, missing[0].First))
	}
	if len(extra) > 0 {
		errs = append(errs, fmt.Errorf("interface %q on the host is in VLAN %d and should not be", port.Name, extra[0].First))
	}
	return errors.Join(errs...)
}

// compareVLANs returns the VLANs that the port lacks and those that it should not be
// in, each as a single id.
func (h *host) compareVLANs(br, port *rtnl.Link, c *Config) (missing, extra []rtnl.VLANs, err error) {
	have, err := h.links.VLANsOf(port)
	if err != nil {
		return nil, nil, err
	}
	ranges, err := c.portVLANs()
	if err != nil {
		return nil, nil, err
	}
	wanted := map[uint16]rtnl.VLANs{}
	if id := br.DefaultVLAN; c.PreserveDefaultVLAN && id != 0 {
		wanted[id] = rtnl.VLANs{First: id, Last: id, Native: c.native() == 0}
	}
	for _, v := range ranges { // the native one is last
		for id := v.First; id <= v.Last; id++ {
			wanted[id] = rtnl.VLANs{First: id, Last: id, Native: v.Native}
		}
	}
	for _, v := range have {
		if w, ok := wanted[v.First]; !ok {
			extra = append(extra, v)
		} else if w.Native == v.Native {
			delete(wanted, v.First)
		}
	}
	for _, v := range wanted {
		missing = append(missing, v)
	}
	slices.SortFunc(missing, func(a, b rtnl.VLANs) int { return int(a.First) - int(b.First) })
	return missing, extra, nil
}

func (w *wiring) checkGateway(br *rtnl.Link, want *expected, c *Config) error {
	if len(want.gateways) == 0 {
		return nil
	}
	dev := br
	if c.VLAN != 0 {
		var err error
		if dev, err = w.links.Link(c.gatewayName()); err != nil {
			return fmt.Errorf("the gateway of VLAN %d: %w", c.VLAN, err)
		}
		if !dev.Up {
			return fmt.Errorf("the gateway %q of VLAN %d is down", dev.Name, c.VLAN)
		}
		if err := w.checkGatewayPort(br, c); err != nil {
			return fmt.Errorf("VLAN %d: %w", c.VLAN, err)
		}
	}
	return hasAddresses(w.links, dev, want.gateways)
}

// checkRules looks up every element by its key, and the rules that use them.
func (w *wiring) checkRules(want *expected, c *Config) error {
	mac, err := macOf(want.nic)
	if err != nil {
		return err
	}
	var errs []error
	needs := groups(c, want.identity, want.ips, mac)
	if c.VLAN != 0 && len(want.gateways) > 0 {
		needs = append(needs, gatewayElement(c))
	}
	for _, g := range needs {
		if err := w.rules.Verify(g.Rules); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range g.Elements {
			errs = append(errs, w.checkElement(g.Rules, e))
		}
	}
	return errors.Join(errs...)
}

func (w *wiring) checkElement(rs *nft.Ruleset, want nft.Element) error {
	have, err := w.rules.Get(rs, want.Set, want.Key)
	if err != nil {
		return err
	}
	if have[0] != nil && have[0].Owner == want.Owner && bytes.HasPrefix(have[0].Value, want.Value) {
		return nil
	}
	what := fmt.Sprintf("for the MAC address check of interface %q (%s)", nameOf(want.Key), want.Set)
	switch want.Set {
	case masq4, masq6:
		ip, _ := netip.AddrFromSlice(want.Key)
		what = fmt.Sprintf("by which address %s is masqueraded", ip)
	case vlan4, vlan6:
		what = "for the way to its VLAN's gateway"
	case near:
		what = fmt.Sprintf("that keeps packets to %q from being masqueraded", nameOf(want.Key))
	case index:
		what = fmt.Sprintf("that indexes the addresses of interface %q", nameOf(want.Key))
	}
	return fmt.Errorf("nftables table %q lacks the element %s", rs.Table, what)
}

func nameOf(key []byte) string {
	name, _, _ := bytes.Cut(key, []byte{0})
	return string(name)
}

func checkForwarding(want *expected, c *Config) error {
	if !c.IsGateway && !c.IPMasq {
		return nil
	}
	var errs []error
	for _, ip := range want.ips {
		name := sysctl.Forwarding(ip.Addr().Is4())
		if now, err := sysctl.Read(name); err == nil && now != "1" {
			errs = append(errs, fmt.Errorf("the host does not forward packets of %s: sysctl %s is %s", ip.Addr(), name, now))
		}
	}
	return errors.Join(errs...)
}

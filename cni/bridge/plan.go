package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// plan is what an ADD will configure, computed before anything is touched. Its slices
// parallel those of the result.
type plan struct {
	result   *cni.Result // without interfaces
	ips      []netip.Prefix
	gateways []netip.Prefix // of the bridge; none unless it is a gateway
}

// leastIPv6 is the smallest MTU of a link with IPv6 (RFC 8200, section 5).
const leastIPv6 = 1280

// guest is the index of the container's interface in the result.
const guest = 2

// makePlan completes IPAM's result.
func makePlan(c *Config, given *cni.Result) (*plan, error) {
	p := &plan{result: &cni.Result{Routes: slices.Clone(given.Routes), DNS: given.DNS}}
	if !c.DNS.IsEmpty() {
		p.result.DNS = c.DNS
	}
	for _, ip := range given.IPs {
		if c.MTU > 0 && c.MTU < leastIPv6 && ip.Address.IP.To4() == nil {
			return nil, cni.Errorf(cni.CodeConfig, "mtu %d is too small for the address %s: IPv6 needs %d", c.MTU, &ip.Address, leastIPv6)
		}
		if err := p.addIP(c, ip); err != nil {
			return nil, cni.Errorf(cni.CodeDelegate, "IPAM plugin %q: %w", c.IPAM.Type, err)
		}
	}
	for _, ip := range p.result.IPs {
		all := defaultRoute(ip.Address.IP)
		has := slices.ContainsFunc(p.result.Routes, func(r *types.Route) bool { return r.Dst.String() == all.String() && inMainTable(r) })
		if c.IsDefaultGateway && !has {
			p.result.Routes = append(p.result.Routes, &types.Route{Dst: all, GW: ip.Gateway})
		}
	}
	for i, route := range p.result.Routes {
		if _, err := rtnl.PrefixOf(route.Dst); err != nil {
			return nil, cni.Errorf(cni.CodeDelegate, "IPAM plugin %q: route: %w", c.IPAM.Type, err)
		}
		p.result.Routes[i] = route.Copy()
		p.result.Routes[i].GW = rtnl.GatewayOf(route, p.result.IPs)
	}
	return p, nil
}

func (p *plan) addIP(c *Config, given *types100.IPConfig) error {
	address, err := rtnl.PrefixOf(given.Address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if address.Addr().IsUnspecified() || address.Addr().IsMulticast() {
		return fmt.Errorf("address %s cannot be that of an interface", address)
	}
	ip := given.Copy()
	ip.Interface = types100.Int(guest)
	if c.IsGateway {
		gateway, err := gatewayOf(address, ip.Gateway)
		if err != nil {
			return err
		}
		ip.Gateway = gateway.Addr().AsSlice()
		p.gateways = append(p.gateways, gateway)
	}
	p.ips = append(p.ips, address)
	p.result.IPs = append(p.result.IPs, ip)
	return nil
}

// gatewayOf returns the bridge's address in the subnet: the given gateway, or the
// subnet's first address.
func gatewayOf(address netip.Prefix, given net.IP) (netip.Prefix, error) {
	gw, ok := netip.AddrFromSlice(given)
	if !ok {
		gw = address.Masked().Addr().Next()
	}
	out := netip.PrefixFrom(gw.Unmap(), address.Bits())
	if !ok && (!address.Contains(out.Addr()) || out == address) {
		return out, fmt.Errorf("address %s leaves none for a gateway in its subnet", address)
	}
	if !out.IsValid() || out == address {
		return out, fmt.Errorf("gateway %s of address %s", given, address)
	}
	return out, nil
}

// inMainTable reports whether a route is in the main table, which applies to every
// packet, and not in one that only rules select.
func inMainTable(r *types.Route) bool {
	const mainTable = 254 // RT_TABLE_MAIN; 0 means the same
	return r.Table == nil || *r.Table == 0 || *r.Table == mainTable
}

func defaultRoute(ip net.IP) net.IPNet {
	if ip.To4() != nil {
		return net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

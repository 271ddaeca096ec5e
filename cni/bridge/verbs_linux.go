package bridge

import (
	"context"
	"errors"
	"net"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
)

func add(ctx context.Context, r *cni.Request, c *Config) (*cni.Result, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	w, err := open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer w.close()
	// This comes before IPAM: the rollback of an ADD that finds the container
	// connected already must not release the addresses of that connection.
	if _, err := w.inside.LinkByName(r.IfName); err == nil {
		return nil, cni.Errorf(cni.CodeExists, "interface %q exists in %q", r.IfName, r.NetNS)
	} else if !isNotFound(err) {
		return nil, err
	}
	given := &cni.Result{}
	if c.IPAM.Type != "" {
		if given, err = r.Delegate(c.IPAM.Type).Add(ctx); err != nil {
			return nil, err
		}
		if len(given.IPs) == 0 {
			return nil, cni.Errorf(cni.CodeDelegate, "IPAM plugin %q gave no address", c.IPAM.Type)
		}
	}
	br, err := w.ensureBridge(c, given.IPs)
	if err != nil {
		return nil, err
	}
	host, guest, err := w.connect(r, c, br)
	if err != nil {
		return nil, err
	}
	result := describe(r, c, given, br, host, guest)
	if err := w.configure(guest, result); err != nil {
		return nil, err
	}
	if err := letOut(r, c, given.IPs); err != nil {
		return nil, err
	}
	return cni.Merge(r.PrevResult, result), nil
}

// describe makes the result, which is also what configure puts into effect.
func describe(r *cni.Request, c *Config, given *cni.Result, links ...netlink.Link) *cni.Result {
	out := &cni.Result{Routes: given.Routes, DNS: given.DNS}
	if !c.DNS.IsEmpty() {
		out.DNS = c.DNS
	}
	for _, l := range links {
		a := l.Attrs()
		out.Interfaces = append(out.Interfaces, &types100.Interface{Name: a.Name, Mac: a.HardwareAddr.String(), Mtu: a.MTU})
	}
	guest := len(links) - 1
	out.Interfaces[guest].Sandbox = r.NetNS
	for _, ip := range given.IPs {
		ip = ip.Copy()
		ip.Interface = types100.Int(guest)
		if ip.Gateway == nil && c.IsGateway {
			ip.Gateway = firstOf(ip.Address)
		}
		out.IPs = append(out.IPs, ip)
	}
	for _, ip := range out.IPs {
		all := defaultRoute(ip.Address.IP)
		has := slices.ContainsFunc(out.Routes, func(route *types.Route) bool { return route.Dst.String() == all.String() })
		if c.IsDefaultGateway && !has {
			out.Routes = append(slices.Clone(out.Routes), &types.Route{Dst: all, GW: ip.Gateway})
		}
	}
	for i, route := range out.Routes {
		if route.GW == nil {
			out.Routes[i] = route.Copy()
			out.Routes[i].GW = gatewayFor(route.Dst.IP, out.IPs)
		}
	}
	return out
}

func defaultRoute(ip net.IP) net.IPNet {
	if ip.To4() != nil {
		return net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

func gatewayFor(dst net.IP, ips []*types100.IPConfig) net.IP {
	for _, ip := range ips {
		if ip.Gateway != nil && (ip.Gateway.To4() != nil) == (dst.To4() != nil) {
			return ip.Gateway
		}
	}
	return nil
}

// firstOf returns the first address of the subnet.
func firstOf(subnet net.IPNet) net.IP {
	ip := subnet.IP.Mask(subnet.Mask)
	ip[len(ip)-1]++
	return ip
}

// letOut switches forwarding on and masquerades the addresses, as configured.
func letOut(r *cni.Request, c *Config, ips []*types100.IPConfig) error {
	for _, ip := range ips {
		if c.IsGateway || c.IPMasq {
			if err := enableForwarding(ip.Address.IP.To4() != nil); err != nil {
				return err
			}
		}
	}
	if !c.IPMasq || len(ips) == 0 {
		return nil
	}
	owner := nft.Owner(r.Network, r.Attachment.String())
	r.Undo("masquerading", func(context.Context) error { return unmasquerade(c, owner) })
	return masquerade(c, owner, ips)
}

// del goes from the outside in. The addresses go back behind it: until then
// nobody else can have them.
func del(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		r.Log.Warn("removing an attachment of an invalid configuration", "err", err)
	}
	owner := nft.Owner(r.Network, r.Attachment.String())
	return table(c).RemoveDuring(func(o string) bool { return o == owner },
		func() error { return disconnect(hostName(r.Network, r.Attachment)) })
}

func gc(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, a := range r.Valid {
		keep[nft.Owner(r.Network, a.String())] = true
	}
	return table(c).Remove(func(owner string) bool { return nft.OfNetwork(owner, r.Network) && !keep[owner] })
}

func status(_ context.Context, _ *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	if c.IPMasq {
		if err := nft.Available(); err != nil {
			return cni.Errorf(cni.CodeUnavailable, "masquerading: %w", err)
		}
	}
	return nil
}

// Teardown removes the bridge and the nftables table of the configuration, for
// an owner who knows that no container uses them any more: a node that leaves
// the machine. The plugin itself never does, because networks may share them.
// It succeeds when they are not there. Sysctls stay as they are.
func Teardown(_ context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	return errors.Join(nft.Delete(c.NFTTable), removeBridge(c.Bridge))
}

package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"

	"github.com/nodekit-project/nodekit/internal/nlsock"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// Configure gives the container's interface of the name CNI_IFNAME the addresses
// and the routes of the result, brings it up, and completes the result: with the
// hardware address and MTU of each interface, on the host too, the index of the
// interface at the addresses that have none, and the gateway at routes that have
// none and are not to neighbours. The container's interface is added to the
// result when it is not there.
//
// It is for ADD of a plugin that has made the interface and got the addresses
// from its delegate. IPv6 addresses are used at once, without a search for
// duplicates: handing out each address once is the delegate's work. On an error
// nothing is undone; the removal of the interface does that.
func (r *Request) Configure(result *Result) error {
	if err := describeHost(result); err != nil {
		return err
	}
	err := r.InNetNS(func() error {
		conn, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		link, err := conn.Link(r.IfName)
		if err != nil {
			return err
		}
		r.describe(result, link)
		requests := []*nlsock.Message{rtnl.Up(link)}
		for _, ip := range result.IPs {
			address, err := prefix(ip.Address)
			if err != nil {
				return Errorf(CodeDelegate, "address %s: %w", &ip.Address, err)
			}
			requests = append(requests, rtnl.AddAddress(link, address, false))
		}
		for _, route := range result.Routes {
			dst, err := prefix(route.Dst)
			if err != nil {
				return Errorf(CodeDelegate, "route to %s: %w", &route.Dst, err)
			}
			out := rtnl.Route{Dst: dst.Masked(), Link: link.Index, Priority: route.Priority, MTU: route.MTU, AdvMSS: route.AdvMSS, Scope: route.Scope}
			if gw, ok := netip.AddrFromSlice(route.GW); ok {
				out.Gateway = gw.Unmap()
			}
			if route.Table != nil {
				out.Table = *route.Table
			}
			requests = append(requests, rtnl.AddRoute(&out))
		}
		return conn.Do(requests...)
	})
	if err != nil {
		return fmt.Errorf("configuring %q in the container: %w", r.IfName, err)
	}
	return nil
}

// describeHost completes what the result says of interfaces on the host.
func describeHost(result *Result) error {
	conn, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, nic := range result.Interfaces {
		if nic.Sandbox != "" || nic.Mac != "" {
			continue
		}
		link, err := conn.Link(nic.Name)
		if err != nil {
			return fmt.Errorf("describing an interface on the host: %w", err)
		}
		nic.Mac, nic.Mtu = link.MAC.String(), link.MTU
	}
	return nil
}

// describe completes what the result says of the container.
func (r *Request) describe(result *Result, link *rtnl.Link) {
	mine := -1
	for i, nic := range result.Interfaces {
		if nic.Name == r.IfName && nic.Sandbox != "" {
			mine = i
		}
	}
	if mine < 0 {
		mine = len(result.Interfaces)
		result.Interfaces = append(result.Interfaces, &Interface{Name: r.IfName, Sandbox: r.NetNS})
	}
	result.Interfaces[mine].Mac, result.Interfaces[mine].Mtu = link.MAC.String(), link.MTU
	for _, ip := range result.IPs {
		if ip.Interface == nil {
			index := mine
			ip.Interface = &index
		}
	}
	const linkScope = 253 // RT_SCOPE_LINK of rtnetlink(7)
	for _, route := range result.Routes {
		if route.GW != nil || route.Scope != nil && *route.Scope >= linkScope {
			continue
		}
		for _, ip := range result.IPs {
			if ip.Gateway != nil && (ip.Gateway.To4() != nil) == (route.Dst.IP.To4() != nil) && route.GW == nil {
				route.GW = ip.Gateway
			}
		}
	}
}

// prefix returns the network in the shape of net/netip.
func prefix(n net.IPNet) (netip.Prefix, error) {
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	out := netip.PrefixFrom(ip.Unmap(), ones)
	if !ok || bits != ip.Unmap().BitLen() || !out.IsValid() {
		return out, fmt.Errorf("that is no address with a length of its prefix")
	}
	return out, nil
}

// HostName returns a name for an interface on the host: the prefix of at most
// five characters, and ten that follow from the network, the container and the
// interface. So DEL finds what ADD made without having written it down.
func (r *Request) HostName(prefix string) string {
	sum := sha256.Sum256([]byte(r.Network + "/" + r.Attachment.String()))
	return prefix + hex.EncodeToString(sum[:5])
}

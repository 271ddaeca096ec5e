package cni

import (
	"fmt"

	"github.com/nodekit-project/nodekit/internal/nlsock"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// Configure adds the addresses and routes of the result to the container's interface
// CNI_IFNAME and brings the interface up. It also completes the result: the hardware
// address and MTU of each interface, including those on the host, the interface index
// of addresses that have none, and the gateway of routes that have none and are not
// link-scoped. If the result lacks the container's interface, Configure adds it.
//
// Call it in ADD of a plugin that has created the interface and got the addresses from
// its delegate. IPv6 addresses are usable at once, without duplicate address detection:
// handing out each address only once is the delegate's responsibility. On an error
// nothing is undone; removing the interface does that. Verify is the counterpart for
// CHECK.
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
			address, err := rtnl.PrefixOf(ip.Address)
			if err != nil {
				return Errorf(CodeDelegate, "address: %w", err)
			}
			requests = append(requests, rtnl.AddAddress(link, address, false))
		}
		routes, err := rtnl.RoutesBy(link, result.Routes)
		if err != nil {
			return Errorf(CodeDelegate, "%w", err)
		}
		for i := range routes {
			requests = append(requests, rtnl.AddRoute(&routes[i]))
		}
		return conn.Do(requests...)
	})
	if err != nil {
		return fmt.Errorf("configuring %q in the container: %w", r.IfName, err)
	}
	return nil
}

// describeHost completes the result's interfaces on the host.
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

// describe completes what the result says about the container.
func (r *Request) describe(result *Result, link *rtnl.Link) {
	mine := r.insideOf(result)
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
	for _, route := range result.Routes {
		route.GW = rtnl.GatewayOf(route, result.IPs)
	}
}

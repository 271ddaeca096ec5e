package cni

import (
	"fmt"

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
// nothing is undone; the removal of the interface does that. Verify is its CHECK.
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

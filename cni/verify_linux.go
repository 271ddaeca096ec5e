package cni

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// Verify checks what Configure has done: that the container's interface CNI_IFNAME
// exists, is up, has the hardware address and addresses given in the result and no
// greater MTU, and that the container has the result's routes. The error has
// CodeNotAsExpected and names everything that is missing.
//
// Call it in CHECK of the plugin that created the interface, with Request.PrevResult.
// It changes nothing. Additions by later plugins of the chain are not errors, nor is a
// smaller MTU, which upstream's tuning plugin does not write into the result. As in
// Configure, an address without an interface index belongs to this interface; what the
// result leaves open, such as the gateway of a route, may have any value. The plugin's
// own CHECK must verify what it has on the host.
func (r *Request) Verify(result *Result) error {
	mine := r.insideOf(result)
	if mine < 0 {
		return Errorf(CodeConfig, "the result has no interface %q in a sandbox", r.IfName)
	}
	return r.InNetNS(func() error {
		conn, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		link, err := conn.Link(r.IfName)
		if errors.Is(err, fault.NotFound) {
			return Errorf(CodeNotAsExpected, "interface %q is missing in the container", r.IfName)
		}
		if err != nil {
			return err
		}
		missing, err := lacks(conn, link, result, mine)
		if err != nil {
			return fmt.Errorf("looking at the container: %w", err)
		}
		if missing != nil {
			return Errorf(CodeNotAsExpected, "%w", missing)
		}
		return nil
	})
}

// insideOf returns the index of the container's interface in the result, or -1.
func (r *Request) insideOf(result *Result) int {
	mine := -1
	if result == nil {
		return mine
	}
	for i, nic := range result.Interfaces {
		if nic.Name == r.IfName && nic.Sandbox != "" {
			mine = i
		}
	}
	return mine
}

// lacks returns everything that is missing of what the result says about interface
// mine, or an error if that cannot be determined.
func lacks(conn *rtnl.Conn, link *rtnl.Link, result *Result, mine int) (missing, err error) {
	var all []error
	complain := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if !link.Up {
		complain("interface %q in the container is down", link.Name)
	}
	if want := result.Interfaces[mine].Mac; want != "" && !rtnl.SameMAC(want, link.MAC) {
		complain("interface %q in the container has the MAC address %s instead of %s", link.Name, link.MAC, want)
	}
	if most := result.Interfaces[mine].Mtu; most > 0 && link.MTU > most {
		complain("interface %q in the container has the MTU %d instead of %d", link.Name, link.MTU, most)
	}
	wanted, err := addressesOf(result, mine)
	if err != nil {
		return nil, err
	}
	addresses, err := conn.MissingAddresses(link, wanted)
	if err != nil {
		return nil, err
	}
	for _, ip := range addresses {
		complain("interface %q in the container lacks the address %s", link.Name, ip)
	}
	routes, err := conn.MissingRoutes(result.Routes)
	if err != nil {
		return nil, err
	}
	for _, route := range routes {
		via := ""
		if route.GW != nil {
			via = " by " + route.GW.String()
		}
		complain("the container lacks the route to %s%s", &route.Dst, via)
	}
	return errors.Join(all...), nil
}

func addressesOf(result *Result, mine int) (out []netip.Prefix, err error) {
	for _, ip := range result.IPs {
		if ip.Interface != nil && *ip.Interface != mine {
			continue
		}
		address, err := rtnl.PrefixOf(ip.Address)
		if err != nil {
			return nil, Errorf(CodeConfig, "the result's address: %w", err)
		}
		out = append(out, address)
	}
	return out, nil
}

// Package rtnl describes links, addresses and routes to the kernel over
// rtnetlink, for plugins that must be quick: nothing is listed that can be asked
// for by name, and what belongs together is one request (see internal/nlsock).
//
// A Conn works in the network namespace that it was opened in, whichever thread
// uses it.
package rtnl

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
)

// PrefixOf returns a network of CNI's types, whose address need not be masked, in
// the shape of net/netip.
func PrefixOf(n net.IPNet) (netip.Prefix, error) {
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	out := netip.PrefixFrom(ip.Unmap(), ones)
	if !ok || bits != ip.Unmap().BitLen() || !out.IsValid() {
		return out, fmt.Errorf("%s is no address with a length of its prefix", &n)
	}
	return out, nil
}

// SameMAC reports whether the hardware address in a result is that of an interface.
// Plugins write it as their configuration does: in capitals, or with hyphens.
func SameMAC(text string, mac net.HardwareAddr) bool {
	told, err := net.ParseMAC(text)
	return err == nil && bytes.Equal(told, mac)
}

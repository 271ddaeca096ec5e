// Package rtnl configures links, addresses and routes over rtnetlink, for plugins
// that must be fast: nothing is listed that can be looked up by name, and what
// belongs together is one request (see internal/nlsock).
//
// A Conn works in the network namespace in which it was opened, whichever thread uses
// it.
package rtnl

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
)

// PrefixOf converts a network of CNI's types, whose address need not be masked, to
// net/netip.
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
// Plugins write it as in their configuration: in upper case, or with hyphens.
func SameMAC(text string, mac net.HardwareAddr) bool {
	told, err := net.ParseMAC(text)
	return err == nil && bytes.Equal(told, mac)
}

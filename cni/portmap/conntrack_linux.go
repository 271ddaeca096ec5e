package portmap

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// Connection tracking remembers the destination of a flow, and UDP has no connections
// that end: a client that never pauses would be sent to its first destination
// forever.

// flows matches conntrack entries of UDP by the host port of their original
// destination.
type flows map[uint16]func(to netip.Addr, now netip.AddrPort) bool

// MatchConntrackFlow implements the library's filter.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	match := f[flow.Forward.DstPort]
	if flow.Forward.Protocol != protoUDP || match == nil {
		return false
	}
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	now, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return match(to.Unmap(), netip.AddrPortFrom(now.Unmap(), flow.Reverse.SrcPort))
}

// forgetBefore deletes the conntrack entries of host ports that are forwarded from
// now on if they lead elsewhere.
func forgetBefore(forwards []forward) error {
	var errs []error
	for _, v4 := range []bool{true, false} {
		match := flows{}
		var local map[netip.Addr]bool
		for _, f := range forwards {
			if f.protocol != protoUDP || f.container.Is4() != v4 {
				continue
			}
			if local == nil {
				var err error
				if local, err = hostAddrs(v4); err != nil {
					return err
				}
			}
			target, before := netip.AddrPortFrom(f.container, f.to), match[f.from]
			match[f.from] = func(to netip.Addr, now netip.AddrPort) bool {
				here := to == f.host || !f.single() && (local[to] || to.IsLoopback())
				return here && now != target || before != nil && before(to, now)
			}
		}
		errs = append(errs, forget(v4, match))
	}
	return errors.Join(errs...)
}

// forgetAfter deletes the conntrack entries of connections that the elements
// forwarded.
func forgetAfter(removed []nft.Element) error {
	var errs []error
	for _, v4 := range []bool{true, false} {
		match := flows{}
		for _, e := range removed {
			if !isPort(e) || protocolOf(e) != protoUDP || targetOf(e).Addr().Is4() != v4 {
				continue
			}
			target, before := targetOf(e), match[hostPort(e)]
			match[hostPort(e)] = func(to netip.Addr, now netip.AddrPort) bool {
				return now == target && to != target.Addr() || before != nil && before(to, now)
			}
		}
		errs = append(errs, forget(v4, match))
	}
	return errors.Join(errs...)
}

func forget(v4 bool, match flows) error {
	if len(match) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer h.Close()
	err = redump.Do(func() error {
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family4(v4), match)
		return err
	})
	if err != nil {
		return fmt.Errorf("removing tracked connections: %w", err)
	}
	return nil
}

func family4(v4 bool) netlink.InetFamily {
	if v4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// hostAddrs returns the host's addresses.
func hostAddrs(v4 bool) (map[netip.Addr]bool, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	defer h.Close()
	list, err := redump.List(func() ([]netlink.Addr, error) { return h.AddrList(nil, int(family4(v4))) })
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	out := map[netip.Addr]bool{}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			out[addr.Unmap()] = true
		}
	}
	return out, nil
}

package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Address is an address on a link.
type Address struct {
	Prefix    netip.Prefix // the address, not masked
	Tentative bool         // duplicate address detection is still running
	Duplicate bool         // duplicate address detection found another owner
}

func addressHeader(prefix netip.Prefix, link int) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = familyOf(prefix.Addr().AsSlice()), uint8(prefix.Bits())
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	return b
}

// AddAddress adds an address to the link. Without detect an IPv6 address is usable at
// once; otherwise the kernel first runs duplicate address detection.
func AddAddress(l *Link, prefix netip.Prefix, detect bool) *nlsock.Message {
	what := fmt.Sprintf("adding address %s to %q", prefix, l.Name)
	m := nlsock.New(what, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addressHeader(prefix, l.Index))
	ip := prefix.Addr().AsSlice()
	m.Bytes(unix.IFA_LOCAL, ip)
	m.Bytes(unix.IFA_ADDRESS, ip)
	if prefix.Addr().Is4() {
		if prefix.Bits() < 31 {
			m.Bytes(unix.IFA_BROADCAST, broadcast(prefix))
		}
	} else if !detect {
		m.U32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	return m
}

func broadcast(prefix netip.Prefix) []byte {
	ip := prefix.Addr().AsSlice()
	mask := net.CIDRMask(prefix.Bits(), 8*len(ip))
	for i := range ip {
		ip[i] |= ^mask[i]
	}
	return ip
}

// RemoveAddress removes an address from the link.
func RemoveAddress(l *Link, prefix netip.Prefix) *nlsock.Message {
	what := fmt.Sprintf("removing address %s from %q", prefix, l.Name)
	m := nlsock.New(what, unix.RTM_DELADDR, 0, addressHeader(prefix, l.Index))
	m.Bytes(unix.IFA_LOCAL, prefix.Addr().AsSlice())
	return m
}

// Addresses lists the link's addresses of global scope.
func (c *Conn) Addresses(l *Link) ([]Address, error) { return c.addresses(l, unix.RT_SCOPE_UNIVERSE) }

// AllAddresses lists the link's addresses of every scope.
func (c *Conn) AllAddresses(l *Link) ([]Address, error) { return c.addresses(l, unix.RT_SCOPE_NOWHERE) }

// MissingAddresses returns those of the addresses that the link does not have. If
// there are none to look for, the kernel is not asked.
func (c *Conn) MissingAddresses(l *Link, want []netip.Prefix) ([]netip.Prefix, error) {
	if len(want) == 0 {
		return nil, nil
	}
	have, err := c.AllAddresses(l)
	if err != nil {
		return nil, err
	}
	has := func(ip netip.Prefix) bool {
		return slices.ContainsFunc(have, func(a Address) bool { return a.Prefix == ip })
	}
	return slices.DeleteFunc(slices.Clone(want), has), nil
}

func (c *Conn) addresses(l *Link, widest uint8) (out []Address, err error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(l.Index))
	m := nlsock.New(named("listing the addresses of", l.Name), unix.RTM_GETADDR, unix.NLM_F_DUMP, header)
	err = c.dump(m, func(entry []byte) {
		if a, ok := parseAddress(entry); ok && entry[3] <= widest && int(binary.NativeEndian.Uint32(entry[4:])) == l.Index {
			out = append(out, a)
		}
	})
	return out, err
}

// parseAddress parses an address; ok is false if b is not one.
func parseAddress(b []byte) (a Address, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return a, false
	}
	attrs := b[unix.SizeofIfAddrmsg:]
	raw := nlsock.Attr(attrs, unix.IFA_LOCAL) // the local address of a point-to-point link
	if raw == nil {
		raw = nlsock.Attr(attrs, unix.IFA_ADDRESS)
	}
	ip, ok := netip.AddrFromSlice(raw)
	a.Prefix = netip.PrefixFrom(ip, int(b[1]))
	flags := nlsock.U32(nlsock.Attr(attrs, unix.IFA_FLAGS))
	a.Tentative = flags&unix.IFA_F_TENTATIVE != 0
	a.Duplicate = flags&unix.IFA_F_DADFAILED != 0
	return a, ok
}

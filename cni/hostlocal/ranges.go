package hostlocal

import (
	"fmt"
	"net/netip"
	"strings"
)

// addrRange is the addresses first to last of a subnet, without the gateway.
type addrRange struct {
	subnet      netip.Prefix
	gateway     netip.Addr
	first, last netip.Addr
}

func (r addrRange) String() string { return fmt.Sprintf("%s-%s", r.first, r.last) }

func (r addrRange) contains(a netip.Addr) bool {
	return !a.Less(r.first) && !r.last.Less(a)
}

func (r addrRange) overlaps(o addrRange) bool {
	return r.contains(o.first) || o.contains(r.first)
}

// usable leaves out the subnet's own addresses, which a range may include.
func (r addrRange) usable(a netip.Addr) bool {
	if a == r.gateway || a == r.subnet.Addr() {
		return false
	}
	return !a.Is4() || a != lastOf(r.subnet)
}

// rangeSet is the ranges of which an attachment gets one address.
type rangeSet []addrRange

func (s rangeSet) String() string {
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = r.String()
	}
	return strings.Join(parts, ", ")
}

// rangeOf returns the range that a is in, or nil.
func (s rangeSet) rangeOf(a netip.Addr) *addrRange {
	for i := range s {
		if s[i].contains(a) {
			return &s[i]
		}
	}
	return nil
}

// after calls yield with every usable address once, beginning behind last and
// going round, until yield returns false.
func (s rangeSet) after(last netip.Addr, yield func(netip.Addr) bool) {
	start := 0
	for i := range s {
		if s[i].contains(last) {
			start = i
		}
	}
	begin := s[start].first
	if s[start].contains(last) && last != s[start].last {
		begin = last.Next()
	} else if s[start].contains(last) {
		start = (start + 1) % len(s)
		begin = s[start].first
	}
	for i := range len(s) + 1 { // the first range is visited in two parts
		r := s[(start+i)%len(s)]
		from, to := r.first, r.last
		switch {
		case i == 0:
			from = begin
		case i == len(s) && begin == r.first:
			return
		case i == len(s):
			to = begin.Prev()
		}
		for a := from; !to.Less(a); a = a.Next() {
			if r.usable(a) && !yield(a) {
				return
			}
			if a == to { // Next of the highest address is not valid
				break
			}
		}
	}
}

// lastOf returns the highest address of the subnet.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

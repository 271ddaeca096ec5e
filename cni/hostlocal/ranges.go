package hostlocal

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// span is the addresses from first to last.
type span struct{ first, last netip.Addr }

func (s span) String() string { return fmt.Sprintf("%s-%s", s.first, s.last) }

func (s span) contains(a netip.Addr) bool { return !a.Less(s.first) && !s.last.Less(a) }

func (s span) overlaps(o span) bool { return s.contains(o.first) || o.contains(s.first) }

// addrRange is the addresses of a subnet's span that are not excluded.
type addrRange struct {
	span
	subnet  netip.Prefix
	gateway netip.Addr // the zero Addr if there is none
	// excluded is sorted and without overlaps: the configured exclusions, the
	// gateway, and what the subnet reserves.
	excluded []span
}

// usable returns the first address from a on that may be assigned.
func (r *addrRange) usable(a netip.Addr) (netip.Addr, bool) {
	if a.Less(r.first) {
		a = r.first
	}
	i, _ := slices.BinarySearchFunc(r.excluded, a, func(s span, a netip.Addr) int { return s.last.Compare(a) })
	for ; i < len(r.excluded) && r.excluded[i].contains(a); i++ {
		a = r.excluded[i].last.Next()
	}
	return a, a.IsValid() && r.contains(a) // Next of the highest address is not valid
}

// exclude excludes spans from the range.
func (r *addrRange) exclude(spans []span) {
	all := slices.Concat(r.excluded, spans)
	slices.SortFunc(all, func(a, b span) int { return a.first.Compare(b.first) })
	r.excluded = nil
	for _, s := range all {
		n := len(r.excluded)
		if n > 0 && r.excluded[n-1].contains(s.first) {
			if r.excluded[n-1].last.Less(s.last) {
				r.excluded[n-1].last = s.last
			}
			continue
		}
		r.excluded = append(r.excluded, s)
	}
}

// rangeSet is the ranges from which an attachment gets one address.
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

// part is a piece of a range.
type part struct {
	*addrRange
	span
}

// after returns the set in the order of a round-robin search that starts after last.
func (s rangeSet) after(last netip.Addr) []part {
	start := slices.IndexFunc(s, func(r addrRange) bool { return r.contains(last) })
	if start < 0 {
		start, last = 0, netip.Addr{}
	}
	var parts []part
	if r := &s[start]; last.IsValid() && last != r.last {
		parts = append(parts, part{r, span{last.Next(), r.last}})
	} else if !last.IsValid() {
		parts = append(parts, part{r, r.span})
	}
	for i := 1; i < len(s); i++ {
		r := &s[(start+i)%len(s)]
		parts = append(parts, part{r, r.span})
	}
	if r := &s[start]; last.IsValid() {
		parts = append(parts, part{r, span{r.first, last}})
	}
	return parts
}

// spanOf returns all addresses of a subnet.
func spanOf(p netip.Prefix) span {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return span{p.Addr(), last}
}

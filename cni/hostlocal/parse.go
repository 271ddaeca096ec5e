package hostlocal

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
)

// sets returns the configured ranges, one set for each address.
func (c *config) sets() ([]rangeSet, error) {
	b := setBuilder{}
	for i, list := range c.RuntimeConfig.IPRanges {
		b.add(fmt.Sprintf("runtimeConfig.ipRanges[%d]", i), list)
	}
	if c.IPAM.Subnet != "" {
		short := rangeConfig{Subnet: c.IPAM.Subnet, RangeStart: c.IPAM.RangeStart, RangeEnd: c.IPAM.RangeEnd, Gateway: c.IPAM.Gateway}
		b.addAs([]string{"ipam"}, "ipam", []rangeConfig{short})
	} else if c.IPAM.RangeStart != "" || c.IPAM.RangeEnd != "" || c.IPAM.Gateway != "" {
		b.fail("ipam.subnet", "is missing beside rangeStart, rangeEnd or gateway")
	}
	for i, list := range c.IPAM.Ranges {
		b.add(fmt.Sprintf("ipam.ranges[%d]", i), list)
	}
	if b.err == nil && len(b.sets) == 0 {
		b.fail("ipam", `has neither "ranges" nor "subnet"`)
	}
	b.excludeEverywhere(c.IPAM.Exclude)
	return b.sets, b.err
}

// setBuilder keeps the first error.
type setBuilder struct {
	sets []rangeSet
	err  error
}

func (b *setBuilder) fail(key, format string, args ...any) {
	if b.err == nil {
		b.err = cni.Errorf(cni.CodeConfig, "%s "+format, append([]any{key}, args...)...)
	}
}

func (b *setBuilder) add(key string, list []rangeConfig) {
	keys := make([]string, len(list))
	for i := range list {
		keys[i] = fmt.Sprintf("%s[%d]", key, i)
	}
	b.addAs(keys, key, list)
}

func (b *setBuilder) addAs(keys []string, key string, list []rangeConfig) {
	if len(list) == 0 {
		b.fail(key, "is empty")
	}
	var set rangeSet
	for i, rc := range list {
		if r, ok := b.parse(keys[i], rc); ok {
			b.checkBeside(keys[i], r, set)
			set = append(set, r)
		}
	}
	b.sets = append(b.sets, set)
}

// checkBeside compares a range with the earlier ones.
func (b *setBuilder) checkBeside(key string, r addrRange, set rangeSet) {
	if len(set) > 0 && set[0].first.Is4() != r.first.Is4() {
		b.fail(key, "mixes IPv4 and IPv6 in one set")
	}
	for _, other := range append(b.sets[:len(b.sets):len(b.sets)], set) {
		for _, o := range other {
			if r.overlaps(o.span) {
				b.fail(key, "is %s, which overlaps %s", r, o)
			}
		}
	}
}

// parse parses one range; ok is false if it is invalid.
func (b *setBuilder) parse(key string, rc rangeConfig) (r addrRange, ok bool) {
	subnet, err := netip.ParsePrefix(rc.Subnet)
	switch {
	case err != nil:
		b.fail(key+".subnet", "is %q, which is no subnet such as 10.1.0.0/16", rc.Subnet)
	case subnet != subnet.Masked():
		b.fail(key+".subnet", "is %q, which has host bits: the network is %s", rc.Subnet, subnet.Masked())
	case subnet.Addr().Is4In6():
		b.fail(key+".subnet", "is %q, which is IPv4 in the clothes of IPv6", rc.Subnet)
	}
	if b.err != nil {
		return r, false
	}
	r = wholeRange(subnet)
	b.readAddr(key+".rangeStart", rc.RangeStart, subnet, &r.first)
	b.readAddr(key+".rangeEnd", rc.RangeEnd, subnet, &r.last)
	b.readAddr(key+".gateway", rc.Gateway, subnet, &r.gateway)
	if b.err == nil && r.last.Less(r.first) {
		b.fail(key+".rangeEnd", "is %s, which comes before rangeStart %s", r.last, r.first)
	}
	spans := reserved(subnet)
	if r.gateway.IsValid() {
		spans = append(spans, span{r.gateway, r.gateway})
	}
	for i, text := range rc.Exclude {
		s, err := parseSpan(text)
		if err != nil || !subnet.Contains(s.first) || !subnet.Contains(s.last) {
			b.fail(fmt.Sprintf("%s.exclude[%d]", key, i), "is %q, which is no address, range a-b or subnet of %s", text, subnet)
			return r, false
		}
		spans = append(spans, s)
	}
	r.exclude(spans)
	if _, any := r.usable(r.first); !any && b.err == nil {
		b.fail(key, "is %s, all of which is excluded or belongs to the subnet itself", r)
	}
	return r, b.err == nil
}

// wholeRange returns the default range of a subnet. A subnet of two addresses or one
// is a point-to-point link or a host route (RFC 3021, RFC 6164): each address is
// usable, and there is no default gateway.
func wholeRange(subnet netip.Prefix) addrRange {
	r := addrRange{span: spanOf(subnet), subnet: subnet}
	if isLink(subnet) {
		return r
	}
	r.first = r.first.Next()
	r.gateway = r.first
	if subnet.Addr().Is4() {
		r.last = r.last.Prev() // the broadcast address
	}
	return r
}

// reserved returns the addresses that a subnet reserves: its own (the subnet-router
// anycast address in IPv6) and the IPv4 broadcast address.
func reserved(subnet netip.Prefix) []span {
	if isLink(subnet) {
		return nil
	}
	all := spanOf(subnet)
	spans := []span{{all.first, all.first}}
	if subnet.Addr().Is4() {
		spans = append(spans, span{all.last, all.last})
	}
	return spans
}

func isLink(subnet netip.Prefix) bool { return subnet.Addr().BitLen()-subnet.Bits() < 2 }

// readAddr parses an optional address of the subnet. Only a gateway may be outside of
// it, if it is link-local or that of a host route.
func (b *setBuilder) readAddr(key, text string, subnet netip.Prefix, into *netip.Addr) {
	if text == "" {
		return
	}
	a, err := parseAddr(text)
	if err != nil {
		b.fail(key, "is %q: %w", text, err)
		return
	}
	outside := strings.HasSuffix(key, ".gateway") && (a.IsLinkLocalUnicast() || subnet.IsSingleIP())
	if !subnet.Contains(a) && (!outside || a.Is4() != subnet.Addr().Is4()) {
		b.fail(key, "is %s, which is not in %s", a, subnet)
	}
	*into = a
}

// excludeEverywhere applies exclusions to every range. One that is in no range is a
// mistake.
func (b *setBuilder) excludeEverywhere(texts []string) {
	for i, text := range texts {
		key := fmt.Sprintf("ipam.exclude[%d]", i)
		s, err := parseSpan(text)
		if err != nil {
			b.fail(key, "is %q: %w", text, err)
			continue
		}
		found := false
		for _, set := range b.sets {
			for j := range set {
				if s.overlaps(spanOf(set[j].subnet)) {
					set[j].exclude([]span{s})
					found = true
				}
				if _, any := set[j].usable(set[j].first); !any {
					b.fail(key, "is %q, which leaves nothing of %s", text, set[j])
				}
			}
		}
		if !found {
			b.fail(key, "is %q, which is in no subnet", text)
		}
	}
}

func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, errors.New("it is no address")
	}
	if a.Zone() != "" {
		return a, errors.New("an address with a zone is none to hand out")
	}
	return a.Unmap(), nil
}

// parseSpan parses an address, "first-last" or a subnet.
func parseSpan(text string) (span, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return spanOf(p.Masked()), nil
	}
	from, to, isRange := strings.Cut(text, "-")
	first, err := parseAddr(strings.TrimSpace(from))
	if err != nil || !isRange {
		return span{first, first}, err
	}
	last, err := parseAddr(strings.TrimSpace(to))
	if err == nil && (first.Is4() != last.Is4() || last.Less(first)) {
		err = errors.New("its end comes before its start")
	}
	return span{first, last}, err
}

// routes parses the routes. Results before 0.3.0 cannot express their attributes.
func (i *ipam) routes(version string) ([]*types.Route, error) {
	var routes []*types.Route
	for n, rc := range i.Routes {
		key := fmt.Sprintf("ipam.routes[%d]", n)
		dst, err := netip.ParsePrefix(rc.Dst)
		if err != nil {
			return nil, cni.Errorf(cni.CodeConfig, "%s.dst is %q, which is no subnet such as 0.0.0.0/0", key, rc.Dst)
		}
		route := &types.Route{
			Dst: net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
			MTU: rc.MTU, AdvMSS: rc.AdvMSS, Priority: rc.Priority, Table: rc.Table, Scope: rc.Scope,
		}
		if rc.GW != "" {
			gw, err := parseAddr(rc.GW)
			if err != nil || gw.Is4() != dst.Addr().Is4() {
				return nil, cni.Errorf(cni.CodeConfig, "%s.gw is %q, which is no address of dst's family", key, rc.GW)
			}
			route.GW = gw.AsSlice()
		}
		if err := rc.checkNumbers(); err != nil {
			return nil, cni.Errorf(cni.CodeConfig, "%s.%w", key, err)
		}
		if plain := (routeConfig{Dst: rc.Dst, GW: rc.GW}); rc != plain && !cni.AtLeast(version, "0.3.0") {
			return nil, cni.Errorf(cni.CodeConfig, "%s has more than dst and gw, which cniVersion %s has no place for", key, version)
		}
		routes = append(routes, route)
	}
	return routes, nil
}

func (rc routeConfig) checkNumbers() error {
	for _, f := range []struct {
		key   string
		value *int
		most  int64
	}{
		{"mtu", &rc.MTU, 1 << 31},
		{"advmss", &rc.AdvMSS, 1 << 31},
		{"priority", &rc.Priority, 1 << 32},
		{"table", rc.Table, 1 << 32},
		{"scope", rc.Scope, 1 << 8},
	} {
		if f.value != nil && (*f.value < 0 || int64(*f.value) >= f.most) {
			return fmt.Errorf("%s is %d, which is not between 0 and %d", f.key, *f.value, f.most-1)
		}
	}
	return nil
}

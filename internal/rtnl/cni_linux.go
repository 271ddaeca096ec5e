package rtnl

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// RoutesBy returns the routes of a CNI result as routes over the link.
func RoutesBy(l *Link, routes []*types.Route) (out []Route, err error) {
	for _, r := range routes {
		dst, err := PrefixOf(r.Dst)
		if err != nil {
			return nil, fmt.Errorf("route: %w", err)
		}
		route := Route{Dst: dst.Masked(), Link: l.Index, Priority: r.Priority, MTU: r.MTU, AdvMSS: r.AdvMSS, Scope: r.Scope}
		if gw, ok := netip.AddrFromSlice(r.GW); ok {
			route.Gateway = gw.Unmap()
		}
		if r.Table != nil {
			route.Table = *r.Table
		}
		out = append(out, route)
	}
	return out, nil
}

// MissingRoutes returns the routes of a CNI result that the kernel lacks, over any
// link.
func (c *Conn) MissingRoutes(routes []*types.Route) (out []*types.Route, err error) {
	wanted, err := RoutesBy(&Link{}, routes)
	if err != nil {
		return nil, err
	}
	type list struct {
		ipv4  bool
		table int
	}
	have := map[list][]Route{}
	for i, r := range wanted {
		from := list{r.Dst.Addr().Is4(), unix.RT_TABLE_MAIN}
		if r.Table > 0 {
			from.table = r.Table
		}
		if _, known := have[from]; !known {
			if have[from], err = c.Routes(from.ipv4, from.table); err != nil {
				return nil, err
			}
		}
		if !slices.ContainsFunc(have[from], func(h Route) bool { return serves(&h, &r) }) {
			out = append(out, routes[i])
		}
	}
	return out, nil
}

// serves reports whether the kernel's route is the wanted one; what want leaves open
// may have any value.
func serves(have, want *Route) bool {
	open := func(w, h int) bool { return w == 0 || w == h }
	return have.Dst == want.Dst &&
		(!want.Gateway.IsValid() || have.Gateway == want.Gateway) &&
		open(want.Priority, have.Priority) && open(want.MTU, have.MTU) && open(want.AdvMSS, have.AdvMSS) &&
		(want.Scope == nil || !want.Dst.Addr().Is4() || *want.Scope == *have.Scope)
}

package rtnl

import (
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
)

// RoutesBy returns the routes of a CNI result as routes by the link.
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

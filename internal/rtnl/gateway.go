package rtnl

import (
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// linkScope is RT_SCOPE_LINK of rtnetlink(7): a route with this scope or a narrower
// one leads to neighbours.
const linkScope = 253

// GatewayOf returns the gateway of a route in a CNI result: its own, else that of the
// first address of its family that has one, or nil. A link-scoped route has only its
// own.
func GatewayOf(route *types.Route, ips []*types100.IPConfig) net.IP {
	if route.GW != nil || route.Scope != nil && *route.Scope >= linkScope {
		return route.GW
	}
	for _, ip := range ips {
		if ip.Gateway != nil && (ip.Gateway.To4() != nil) == (route.Dst.IP.To4() != nil) {
			return ip.Gateway
		}
	}
	return nil
}

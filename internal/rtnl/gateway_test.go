package rtnl_test

import (
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/internal/rtnl"
)

func TestGatewayOf(t *testing.T) {
	ips := []*types100.IPConfig{{}, {Gateway: net.ParseIP("10.0.0.1")}, {Gateway: net.ParseIP("10.0.0.2")}, {Gateway: net.ParseIP("fd00::1")}}
	_, four, _ := net.ParseCIDR("192.0.2.0/24")
	_, six, _ := net.ParseCIDR("2001:db8::/32")
	link, site := 253, 200
	for what, c := range map[string]struct {
		route types.Route
		ips   []*types100.IPConfig
		want  string
	}{
		"IPv4":          {types.Route{Dst: *four}, ips, "10.0.0.1"},
		"IPv6":          {types.Route{Dst: *six}, ips, "fd00::1"},
		"its own":       {types.Route{Dst: *four, GW: net.ParseIP("10.0.0.9")}, ips, "10.0.0.9"},
		"to neighbours": {types.Route{Dst: *four, Scope: &link}, ips, "<nil>"},
		"of the site":   {types.Route{Dst: *four, Scope: &site}, ips, "10.0.0.1"},
		"no gateway":    {types.Route{Dst: *six}, ips[:3], "<nil>"},
	} {
		if got := rtnl.GatewayOf(&c.route, c.ips); got.String() != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

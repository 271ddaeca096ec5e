package cnisuite

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// checkRoutesExist makes the delegate, if the suite stands in for it, return routes
// with and without a gateway.
func checkRoutesExist(ctx context.Context, l *lab) error {
	routes := `{"dst":"10.200.0.0/16"},{"dst":"10.201.0.0/16","gw":"10.123.0.1"}`
	return l.routes(ctx, routes, func(told toldRoute, have netlink.Route) string {
		if told.GW != "" && !have.Gw.Equal(net.ParseIP(told.GW)) {
			return fmt.Sprintf("next hop %s", have.Gw)
		}
		return ""
	})
}

// checkRoutesTold looks only at the container's main table. Routes to the result's
// own subnets and gateways need not be listed.
func checkRoutesTold(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := l.ipam.result(c, l.routed(`{"dst":"10.205.0.0/16","gw":"10.123.0.1"}`)); err != nil {
		return err
	}
	scope := leak.Scope{Kinds: []leak.Kind{leak.Route}}
	before, err := takeIn(c.ns, scope)
	if err != nil {
		return err
	}
	r, err := l.add(ctx, c)
	if err != nil {
		return err
	}
	after, err := takeIn(c.ns, scope)
	if err != nil {
		return err
	}
	for _, made := range before.Diff(after) {
		if strings.Contains(made.Name, " type ") || strings.Contains(made.Name, " table ") {
			continue
		}
		if to := strings.Fields(made.Name)[1]; !r.leads(to) {
			return fmt.Errorf("ADD made the route %q in the container, and the result has none to %s: %s", made.Name, to, c.result)
		}
	}
	return nil
}

// leads reports whether the result has a route to the destination, or an address with
// the destination as its subnet or gateway.
func (r *result) leads(to string) bool {
	if to == "default" {
		to = "0.0.0.0/0"
	}
	ip, dst, err := net.ParseCIDR(to)
	if err != nil {
		return false
	}
	if slices.ContainsFunc(r.Routes, func(told routeEntry) bool {
		_, have, err := net.ParseCIDR(told.Dst)
		return err == nil && have.String() == dst.String()
	}) {
		return true
	}
	return slices.ContainsFunc(r.IPs, func(told ipEntry) bool {
		_, subnet, err := net.ParseCIDR(told.Address)
		if err != nil {
			return false
		}
		wide, _ := subnet.Mask.Size()
		narrow, _ := dst.Mask.Size()
		return subnet.Contains(ip) && narrow >= wide || ip.Equal(net.ParseIP(told.Gateway))
	})
}

func checkRouteAttributes(ctx context.Context, l *lab) error {
	if !l.speaks("1.1.0") {
		return conformance.NotApplicable("the plugin speaks %s at most, whose routes have no attributes", l.version)
	}
	routes := `{"dst":"10.202.0.0/16","gw":"10.123.0.1","mtu":1400,"advmss":1300,"priority":77},` +
		`{"dst":"10.203.0.0/16","gw":"10.123.0.1","table":1234}`
	if err := l.routes(ctx, routes, differsInAttributes); err != nil {
		return err
	}
	return l.routes(ctx, `{"dst":"10.204.0.0/16","scope":253}`, differsInAttributes)
}

func differsInAttributes(told toldRoute, have netlink.Route) string {
	for name, v := range map[string][2]int{
		"mtu": {told.MTU, have.MTU}, "advmss": {told.AdvMSS, have.AdvMSS}, "priority": {told.Priority, have.Priority},
		"table": {orZero(told.Table), have.Table}, "scope": {orZero(told.Scope), int(have.Scope)},
	} {
		if v[0] != 0 && v[0] != v[1] {
			return fmt.Sprintf("%s %d", name, v[1])
		}
	}
	return ""
}

func orZero(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

// routes compares each route of the result with the kernel's route to that
// destination; differs returns how they differ.
func (l *lab) routes(ctx context.Context, routes string, differs func(toldRoute, netlink.Route) string) error {
	if err := l.describes(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := l.ipam.result(c, l.routed(routes)); err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	d, err := c.details()
	if err != nil {
		return err
	}
	if len(d.Routes) == 0 {
		return conformance.NotApplicable("the result has no routes")
	}
	have, err := routesIn(c.ns)
	if err != nil {
		return err
	}
	host, err := routesIn(l.host) // the text does not say that they are the container's
	if err != nil {
		return err
	}
	have = append(have, host...)
	for _, told := range d.Routes {
		if err := exists(told, have, differs); err != nil {
			return err
		}
	}
	return nil
}

// routed is a delegate's result with routes.
func (l *lab) routed(routes string) string {
	text := ipamResult(l.version, fmt.Sprintf("10.123.%d.%d/16", 1+l.count/250, 1+l.count%250), "10.123.0.1")
	return strings.TrimSuffix(text, "}") + `,"routes":[` + routes + `]}`
}

func routesIn(ns string) (all []netlink.Route, err error) {
	err = netns.Do(ns, func() error {
		all, err = redump.List(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(allFamilies, &netlink.Route{Table: anyTable}, netlink.RT_FILTER_TABLE)
		})
		return err
	})
	return all, err
}

func exists(told toldRoute, have []netlink.Route, differs func(toldRoute, netlink.Route) string) error {
	_, dst, err := net.ParseCIDR(told.Dst)
	if err != nil {
		return fmt.Errorf("the destination %q of the result's route is not in CIDR notation", told.Dst)
	}
	var others []string
	for i := range have {
		if !leads(have[i], dst) {
			continue
		}
		difference := differs(told, have[i])
		if difference == "" {
			return nil
		}
		others = append(others, difference)
	}
	if len(others) == 0 {
		return fmt.Errorf("the result has a route to %s, the kernel has none", told.Dst)
	}
	slices.Sort(others)
	return fmt.Errorf("the result has the route %s, the kernel's has %s", told, strings.Join(others, ", and another "))
}

func (r toldRoute) String() string {
	return fmt.Sprintf("%s via %q mtu %d advmss %d priority %d table %d scope %d",
		r.Dst, r.GW, r.MTU, r.AdvMSS, r.Priority, orZero(r.Table), orZero(r.Scope))
}

// leads reports whether a route leads to the destination. The kernel's default routes
// may have none.
func leads(r netlink.Route, dst *net.IPNet) bool {
	if r.Dst == nil {
		ones, bits := dst.Mask.Size()
		return ones == 0 && (r.Family == familyV6) == (bits == 8*net.IPv6len)
	}
	return r.Dst.String() == dst.String()
}

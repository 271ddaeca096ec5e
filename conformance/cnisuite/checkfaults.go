package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// checkFaultRules each break one thing and check that CHECK notices.
func checkFaultRules() []conformance.Rule[Target] {
	const should, advisory = conformance.Should, conformance.Advisory
	return []conformance.Rule[Target]{
		checked(rule("CNI-CHECK-003", should, "CHECK finds the interface gone", "CHECK", missing), noticed("the interface gone", breakLink)),
		checked(rule("CNI-CHECK-004", should, "CHECK finds an address gone", "CHECK", missing), noticed("an address gone", breakAddress)),
		checked(rule("CNI-CHECK-005", should, "CHECK finds a route gone", "CHECK", missing), noticed("a route gone", breakRoute)),
		checked(rule("CNI-CHECK-006", should, "CHECK finds the interface's hardware address changed", "CHECK", missing), noticed("another hardware address", breakMAC)),
		checked(rule("CNI-CHECK-007", advisory, "CHECK finds the interface down", "CHECK",
			"The plugin should return an error if it is aware of a condition where the container is generally unreachable."), noticed("the interface down", breakUp)),
		checked(rule("CNI-CHECK-008", should, "CHECK finds the host's side detached from its bridge", "CHECK", missing), noticed("the host's side detached", breakPort)),
		checked(rule("CNI-CHECK-009", advisory, "CHECK finds the gateway's address gone from the host", "CHECK",
			"The plugin should return an error if it is aware of a condition where the container is generally unreachable."), noticed("the gateway's address gone", breakGateway)),
		checked(rule("CNI-CHECK-010", should, "CHECK finds firewall rules gone", "CHECK", untracked), noticed("every nftables table gone", breakFirewall)),
		checked(rule("CNI-CHECK-011", should, "CHECK finds traffic shaping gone", "CHECK", untracked), noticed("the queueing disciplines gone", breakShaping)),
		checked(rule("CNI-CHECK-019", advisory, "CHECK's error names what is missing", "Error",
			"msg: A short message characterizing the error."), checkNamesMissing),
	}
}

// attachment is what a fault is about.
type attachment struct {
	*container
	result *result
	before *leak.Snapshot // of the host, before the ADD
}

// noticed returns the check of a rule: after ADD something is broken, and CHECK must
// fail. A fault that cannot be produced is NotApplicable.
func noticed(what string, breakIt func(*lab, *attachment) error) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		out, err := l.broke(ctx, what, breakIt)
		if err != nil {
			return err
		}
		return out.failed()
	}
}

func (l *lab) broke(ctx context.Context, what string, breakIt func(*lab, *attachment) error) (*answer, error) {
	if err := l.hasCheck(); err != nil {
		return nil, err
	}
	c, err := l.newContainer()
	if err != nil {
		return nil, err
	}
	if l.target.delegates() {
		if err := l.ipam.result(c, withRoute(l.version, l.count)); err != nil {
			return nil, err
		}
	}
	a := &attachment{container: c}
	if a.before, err = l.snapshot(); err != nil {
		return nil, err
	}
	if a.result, err = l.add(ctx, c); err != nil {
		return nil, err
	}
	// A CHECK that always fails notices nothing.
	_, err = found(ctx, l, "CHECK before anything was broken", func(ctx context.Context, l *lab) (struct{}, error) {
		return struct{}{}, l.check(ctx, c, with{what: "CHECK before anything was broken"})
	})
	if err != nil {
		return nil, err
	}
	if err := breakIt(l, a); err != nil {
		return nil, err
	}
	return l.call(ctx, "CHECK", c, with{what: "CHECK with " + what})
}

// withRoute is a delegate's result with a route besides an address.
func withRoute(version string, number int) string {
	result := ipamResult(version, fmt.Sprintf("10.123.%d.%d/16", 1+number/250, 1+number%250), "10.123.0.1")
	if !slices.Contains([]string{"0.1.0", "0.2.0"}, version) {
		result = strings.TrimSuffix(result, "}") + `,"routes":[{"dst":"10.126.0.0/16","gw":"10.123.0.1"}]}`
	}
	return result
}

// own returns NotApplicable if the plugin did not create the interface.
func (l *lab) own(a *attachment) error {
	if l.target.Kind == Chained || l.target.Kind == IPAM || l.target.loopback() {
		return conformance.NotApplicable("the plugin does not make the container's interface")
	}
	if a.result.inside(a.ifName, a.ns) < 0 {
		return conformance.NotApplicable("ADD lists no interface in the container")
	}
	return nil
}

func breakLink(l *lab, a *attachment) error {
	if err := l.own(a); err != nil {
		return err
	}
	return a.change(netlink.LinkDel)
}

func breakAddress(l *lab, a *attachment) error {
	if err := l.own(a); err != nil {
		return err
	}
	for _, ip := range a.result.IPs {
		if ip.Interface == nil || *ip.Interface != a.result.inside(a.ifName, a.ns) {
			continue
		}
		return a.change(func(link netlink.Link) error {
			addr, err := netlink.ParseAddr(ip.Address)
			if err != nil {
				return err
			}
			return netlink.AddrDel(link, &netlink.Addr{IPNet: addr.IPNet})
		})
	}
	return conformance.NotApplicable("ADD gives the interface no address")
}

func breakRoute(l *lab, a *attachment) error {
	if err := l.own(a); err != nil {
		return err
	}
	if len(a.result.Routes) == 0 {
		return conformance.NotApplicable("ADD lists no route")
	}
	var routes []netlink.Route
	err := a.change(func(link netlink.Link) (err error) {
		all, err := redump.List(func() ([]netlink.Route, error) { return netlink.RouteList(link, allFamilies) })
		for _, r := range all {
			if slices.ContainsFunc(a.result.Routes, func(listed routeEntry) bool { return leadsTo(r, listed.Dst) }) {
				routes = append(routes, r)
			}
		}
		for i := range routes {
			err = errors.Join(err, netlink.RouteDel(&routes[i]))
		}
		return err
	})
	if err == nil && len(routes) == 0 {
		return conformance.NotApplicable("the routes that ADD lists are not in the container's main table")
	}
	return err
}

func leadsTo(r netlink.Route, dst string) bool {
	if r.Dst == nil {
		return strings.HasSuffix(dst, "/0")
	}
	return r.Dst.String() == dst
}

func breakMAC(l *lab, a *attachment) error {
	if err := l.own(a); err != nil {
		return err
	}
	if a.result.Interfaces[a.result.inside(a.ifName, a.ns)].Mac == "" {
		return conformance.NotApplicable("ADD lists no hardware address")
	}
	err := a.change(func(link netlink.Link) error {
		return netlink.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0x56, 0x78})
	})
	if err != nil {
		return conformance.NotApplicable("the hardware address cannot be changed: %v", err)
	}
	return nil
}

// breakUp also applies to lo: it exists before the plugin, but is down.
func breakUp(l *lab, a *attachment) error {
	if err := l.own(a); err != nil && !l.target.loopback() {
		return err
	}
	if found, err := a.look(); err != nil {
		return err
	} else if found == nil || !found.up {
		return conformance.NotApplicable("ADD does not set the interface up")
	}
	return a.change(netlink.LinkSetDown)
}

// hostLinks returns the host's interfaces that did not exist before the ADD.
func (l *lab) hostLinks(a *attachment) (made []netlink.Link, err error) {
	known := a.before.Names(leak.Link)
	err = netns.Do(l.host, func() error {
		all, err := redump.List(netlink.LinkList)
		for _, link := range all {
			if !slices.Contains(known, fmt.Sprintf("%s (%s)", link.Attrs().Name, link.Type())) {
				made = append(made, link)
			}
		}
		return err
	})
	return made, err
}

func breakPort(l *lab, a *attachment) error {
	links, err := l.hostLinks(a)
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Attrs().MasterIndex != 0 {
			return netns.Do(l.host, func() error { return netlink.LinkSetNoMaster(link) })
		}
	}
	return conformance.NotApplicable("ADD makes no port of a bridge on the host")
}

func breakGateway(l *lab, a *attachment) error {
	gateways := map[string]bool{}
	for _, ip := range a.result.IPs {
		gateways[ip.Gateway] = true
	}
	found := false
	err := netns.Do(l.host, func() error {
		addrs, err := redump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, allFamilies) })
		for i := range addrs {
			if !gateways[addrs[i].IP.String()] {
				continue
			}
			link, lerr := netlink.LinkByIndex(addrs[i].LinkIndex)
			if lerr != nil {
				return lerr
			}
			found = true
			err = errors.Join(err, netlink.AddrDel(link, &addrs[i]))
		}
		return err
	})
	if err == nil && !found {
		return conformance.NotApplicable("the gateway's address is not one of the host's")
	}
	return err
}

func breakFirewall(l *lab, a *attachment) error {
	now, err := l.snapshot()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(a.before.Diff(now), func(found leak.Leak) bool { return found.Kind == leak.NFT }) {
		return conformance.NotApplicable("ADD makes no nftables rules on the host")
	}
	return netns.Do(l.host, nft.FlushAll)
}

// breakShaping deletes the queueing disciplines other than the kernel's defaults.
func breakShaping(l *lab, a *attachment) error {
	found := false
	del := func() error {
		here, err := unshape()
		found = found || here
		return err
	}
	err := errors.Join(netns.Do(l.host, del), netns.Do(a.ns, del))
	if err == nil && !found {
		return conformance.NotApplicable("ADD shapes no traffic")
	}
	return err
}

// checkListener makes the host's interfaces promiscuous, as tcpdump does.
func checkListener(ctx context.Context, l *lab) error {
	out, err := l.broke(ctx, "a listener on the host's interfaces", func(l *lab, a *attachment) error {
		links, err := l.hostLinks(a)
		if err != nil {
			return err
		}
		if len(links) == 0 {
			return conformance.NotApplicable("ADD makes no interface on the host")
		}
		return netns.Do(l.host, func() error {
			for _, link := range links {
				err = errors.Join(err, promiscuous(link))
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return out.ok(nil)
}

func checkNamesMissing(ctx context.Context, l *lab) error {
	var about []string
	out, err := l.broke(ctx, "the interface gone", func(l *lab, a *attachment) error {
		about = append(about, a.ifName)
		for _, ip := range a.result.IPs {
			about = append(about, ip.Address)
		}
		return breakLink(l, a)
	})
	if err != nil {
		return err
	}
	e, err := out.failure()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(about, func(word string) bool { return e.names("", word) == nil }) {
		return fmt.Errorf("%s: the error names none of %q: %q", out.what, about, e.Msg)
	}
	return nil
}

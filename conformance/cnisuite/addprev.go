package cnisuite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// prevRules are about the result of the earlier plugins.
func prevRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		checked(rule("CNI-ADD-012", conformance.Must, "the result has what prevResult had", "ADD",
			"If the plugin was supplied a prevResult as part of its input configuration, it MUST handle prevResult by either passing it through, or modifying it appropriately."), checkPrevKept),
		checked(rule("CNI-ADD-013", conformance.Must, "a plugin that changes nothing outputs prevResult", "ADD Success",
			"If a plugin makes no changes that would be reflected in the Success result type, then it must output a result equivalent to the provided prevResult."), checkPrevEqual),
	}
}

// previous is a prevResult with all kinds of entries: for the interface that the
// chained plugin adjusts, or for another one in the container.
func (l *lab) previous(c *container) (json.RawMessage, error) {
	prev := c.prev
	if prev == nil {
		other := &container{number: c.number, id: c.id, ns: c.ns, ifName: "prev0"}
		if err := errors.Join(other.occupy(), other.raise()); err != nil {
			return nil, err
		}
		var err error
		if prev, err = l.prevResult(other, l.version); err != nil {
			return nil, err
		}
	}
	return l.enrich(c, prev)
}

// enrich adds to a result with one address what results may also have: its gateway,
// the interface's MTU, a route, and dns.
func (l *lab) enrich(c *container, prev json.RawMessage) (json.RawMessage, error) {
	var r map[string]any
	if err := json.Unmarshal(prev, &r); err != nil {
		return nil, err
	}
	nic := r["interfaces"].([]any)[0].(map[string]any)
	name := nic["name"].(string)
	nics, err := nicsIn(c.ns)
	if err != nil {
		return nil, err
	}
	if l.speaks("1.1.0") {
		nic["mtu"] = nics[name].mtu
	}
	gateway := slices.Clone(c.address().IP)
	gateway[3] = 1
	r["ips"].([]any)[0].(map[string]any)["gateway"] = gateway.String()
	r["routes"] = []any{map[string]any{"dst": prevRoute.String(), "gw": gateway.String()}}
	r["dns"] = map[string]any{"nameservers": []string{"192.0.2.53"}, "domain": "suite.example", "search": []string{"suite.example"}, "options": []string{"ndots:2"}}
	if err := netns.Do(c.ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prevRoute, Gw: gateway})
	}); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// prevRoute is the destination of the route in a prevResult.
var prevRoute = &net.IPNet{IP: net.IPv4(10, 127, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}

// checkPrevKept skips a plugin that creates interfaces and refuses to be in a chain:
// there is no harm in that.
func checkPrevKept(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	prev, err := l.previous(c)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD with a prevResult", keys: map[string]any{"prevResult": prev}})
	if err != nil {
		return err
	}
	if out.failed() == nil && l.target.Kind != Chained {
		return conformance.NotApplicable("the plugin refuses to be in a chain: %s", shorten(out.stdout))
	}
	var old, now result
	if err := errors.Join(json.Unmarshal(prev, &old), out.ok(&now)); err != nil {
		return err
	}
	return cmp.Or(l.stillTold(old, now, out), l.stillRouted(c, old, now, out))
}

// stillTold expects the result to have what prevResult had, as long as the kernel has
// it: what the plugin removed is modified appropriately. The kernel does not know
// dns.
func (l *lab) stillTold(old, now result, out *answer) error {
	for at, i := range old.Interfaces {
		nics, err := nicsIn(l.place(i.Sandbox))
		if err != nil {
			return err
		}
		seen := nics[i.Name]
		if seen == nil {
			continue
		}
		if now.inside(i.Name, i.Sandbox) < 0 {
			return fmt.Errorf("prevResult has interface %q (sandbox %q), which is there, and the result lacks it: %s", i.Name, i.Sandbox, out.stdout)
		}
		for _, ip := range old.IPs {
			if *ip.Interface != at || !seen.addresses[canonical(ip.Address)] {
				continue
			}
			if !now.has(ip.Address) {
				return fmt.Errorf("prevResult has the address %s, which is there, and the result lacks it: %s", ip.Address, out.stdout)
			}
			if on := now.on(ip.Address); on != i.Name {
				return fmt.Errorf("prevResult has the address %s on interface %q, and in the result its index leads to %q: an index counts the result's own interfaces: %s",
					ip.Address, i.Name, on, out.stdout)
			}
		}
	}
	return nil
}

// stillRouted expects the same of prevResult's routes.
func (l *lab) stillRouted(c *container, old, now result, out *answer) error {
	have, err := routesIn(c.ns)
	if err != nil {
		return err
	}
	for _, route := range old.Routes {
		there := slices.ContainsFunc(have, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == route.Dst })
		if there && !slices.ContainsFunc(now.Routes, func(r routeEntry) bool { return r.Dst == route.Dst }) {
			return fmt.Errorf("prevResult has the route to %s, which is there, and the result lacks it: %s", route.Dst, out.stdout)
		}
	}
	return nil
}

// on returns the name of the interface to which the result assigns an address, or "".
func (r *result) on(address string) string {
	for _, ip := range r.IPs {
		if canonical(ip.Address) == canonical(address) && ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(r.Interfaces) {
			return r.Interfaces[*ip.Interface].Name
		}
	}
	return ""
}

// has reports whether the result has the address, with any prefix length if none is
// given.
func (r *result) has(address string) bool {
	bare, _, prefixed := strings.Cut(address, "/")
	for _, ip := range r.IPs {
		if prefixed && canonical(ip.Address) == canonical(address) {
			return true
		}
		if told, _, err := net.ParseCIDR(ip.Address); err == nil && !prefixed && told.Equal(net.ParseIP(bare)) {
			return true
		}
	}
	return false
}

func checkPrevEqual(ctx context.Context, l *lab) error {
	if l.target.Kind != Chained {
		return conformance.NotApplicable("the plugin is not a chained one")
	}
	if err := l.describes(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	prev, err := l.previous(c)
	if err != nil {
		return err
	}
	before, err := l.reflected(c)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD with a prevResult", keys: map[string]any{"prevResult": prev}})
	if err != nil {
		return err
	}
	var old, now any
	if err := errors.Join(json.Unmarshal(prev, &old), out.ok(&now)); err != nil {
		return err
	}
	after, err := l.reflected(c)
	if err != nil {
		return err
	}
	if !slices.Equal(before, after) {
		return conformance.NotApplicable("the plugin changes interfaces, addresses or routes")
	}
	if where := lacks(old, now); where != "" {
		return fmt.Errorf("ADD changed nothing, and the result differs from prevResult at %s: %s, prevResult was %s", where, out.stdout, prev)
	}
	return nil
}

// reflected returns what a result would describe: the interfaces, addresses and
// routes of container and host.
func (l *lab) reflected(c *container) ([]string, error) {
	var all []string
	for _, ns := range []string{c.ns, l.host} {
		s, err := takeIn(ns, leak.Scope{Kinds: []leak.Kind{leak.Address, leak.Route}})
		if err != nil {
			return nil, err
		}
		all = slices.Concat(all, s.Names(leak.Address), s.Names(leak.Route))
		links, err := linksIn(ns)
		if err != nil {
			return nil, err
		}
		for name, link := range links {
			all = append(all, fmt.Sprint(name, link.Type(), link.Attrs().HardwareAddr, link.Attrs().MTU))
		}
	}
	all = slices.DeleteFunc(all, func(name string) bool { return strings.Contains(name, " fe80:") })
	slices.Sort(all)
	return all, nil
}

// lacks returns the first place where have lacks what want has. It ignores additions
// in have, and the case of letters.
func lacks(want, have any) string {
	switch want := want.(type) {
	case map[string]any:
		there, _ := have.(map[string]any)
		for key, value := range want {
			if where := lacks(value, there[key]); where != "" {
				return key + " " + where
			}
		}
		return ""
	case []any:
		there, _ := have.([]any)
		if len(there) < len(want) {
			return fmt.Sprintf("(%d elements instead of %d)", len(there), len(want))
		}
		for i, value := range want {
			if where := lacks(value, there[i]); where != "" {
				return fmt.Sprintf("%d %s", i, where)
			}
		}
		return ""
	}
	if strings.EqualFold(fmt.Sprint(want), fmt.Sprint(have)) {
		return ""
	}
	return fmt.Sprintf("(%v instead of %v)", have, want)
}

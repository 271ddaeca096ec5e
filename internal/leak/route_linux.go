package leak

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/redump"
)

// routes excludes routes that the kernel creates by itself for an address, or learns
// from routers.
func routes(scope *Scope) (things, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	all, err := redump.List(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	found := make(things)
	for i := range all {
		r := &all[i]
		if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Flags&unix.RTM_F_CLONED != 0 {
			continue
		}
		link := names[r.LinkIndex]
		if link == "" {
			link = "-"
		}
		if scope.matches(Route, link) {
			name := fmt.Sprintf("%s %s", link, destination(r))
			found.add(name, name)
		}
	}
	return found, nil
}

func destination(r *netlink.Route) string {
	to := "default"
	if r.Dst != nil {
		to = r.Dst.String()
	}
	for _, part := range []struct {
		word string
		set  bool
		is   any
	}{
		{"via", r.Gw != nil, r.Gw},
		{"src", r.Src != nil, r.Src},
		{"hops", len(r.MultiPath) > 0, r.MultiPath},
		{"table", r.Table != unix.RT_TABLE_MAIN, r.Table},
		{"metric", r.Priority != 0, r.Priority},
		{"mtu", r.MTU != 0, r.MTU},
		{"advmss", r.AdvMSS != 0, r.AdvMSS},
		{"type", r.Type != unix.RTN_UNICAST, r.Type},
	} {
		if part.set {
			to += fmt.Sprintf(" %s %v", part.word, part.is)
		}
	}
	return to
}

func linkNames() (map[int]string, error) {
	all, err := redump.List(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(all))
	for _, l := range all {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

func policyRules(scope *Scope) (things, error) {
	all, err := redump.List(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	found := make(things)
	for i := range all {
		r := &all[i]
		name := fmt.Sprintf("%s (family %d)", strings.TrimSpace(strings.TrimPrefix(r.String(), "ip rule ")), r.Family)
		if scope.matches(Rule, name) {
			found.add(name, name)
		}
	}
	return found, nil
}

package cnisuite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// resultRules compare results with the kernel.
func resultRules() []conformance.Rule[Target] {
	const must = conformance.Must
	const routes = "routes: Routes created by this attachment"
	return []conformance.Rule[Target]{
		checked(rule("CNI-ADD-004", must, "the result lists every interface that ADD makes, those of the host too", "ADD Success",
			"interfaces: An array of all interfaces created by the attachment, including any host-level interfaces"), checkListed),
		checked(rule("CNI-ADD-005", must, "listed interfaces are where the result says, with the hardware address and the MTU that it says", "ADD Success",
			"mac (string): The hardware address of the interface (if applicable). mtu: (uint) The MTU of the interface (if applicable). sandbox (string): The isolation domain reference (e.g. path to network namespace) for the interface, or empty if on the host. For interfaces created inside the container, this should be the value passed via CNI_NETNS."), checkTrue),
		checked(rule("CNI-ADD-006", conformance.Should, "the result says the hardware address and the MTU of the interface", "ADD Success",
			"mac (string): The hardware address of the interface (if applicable). mtu: (uint) The MTU of the interface (if applicable)."), checkTells),
		checked(rule("CNI-ADD-007", must, "the result's addresses are valid, and on the interfaces that it says", "ADD Success",
			"address (string): an IP address in CIDR notation; interface (uint): the index into the interfaces list for a CNI Plugin Result indicating which interface this IP configuration should be applied to"), checkAddresses),
		checked(rule("CNI-ADD-008", must, "the container has no address that the result does not say", "ADD Success",
			"ips: IPs assigned by this attachment"), checkNoMoreAddresses),
		checked(rule("CNI-ADD-009", must, "the result's routes exist", "ADD Success", routes+
			": dst: The destination of the route, in CIDR notation; gw: The next hop address. If unset, a value in gateway in the ips array may be used."), checkRoutesExist),
		checked(rule("CNI-ADD-029", must, "the result has the routes that ADD makes", "ADD Success", routes), checkRoutesTold),
		checked(rule("CNI-ADD-025", must, "the result's routes have the MTU, MSS, priority, table and scope that it says", "ADD Success", routes+
			": mtu (uint): The MTU (Maximum transmission unit) along the path to the destination; advmss (uint); priority (uint); table (uint): The table to add the route to; scope (uint)"), checkRouteAttributes),
	}
}

// details are the parts of results that other rules do not read.
type details struct {
	Interfaces []struct {
		iface
		MTU int `json:"mtu"`
	} `json:"interfaces"`
	Routes []toldRoute `json:"routes"`
	DNS    struct {
		Nameservers []string `json:"nameservers"`
		Domain      string   `json:"domain"`
		Search      []string `json:"search"`
		Options     []string `json:"options"`
	} `json:"dns"`
}

type toldRoute struct {
	routeEntry
	MTU      int  `json:"mtu"`
	AdvMSS   int  `json:"advmss"`
	Priority int  `json:"priority"`
	Table    *int `json:"table"`
	Scope    *int `json:"scope"`
}

// details of the container's ADD.
func (c *container) details() (*details, error) {
	var d details
	if err := json.Unmarshal(c.result, &d); err != nil {
		return nil, fmt.Errorf("the result is not as the specification says: %w: %s", err, c.result)
	}
	return &d, nil
}

// linksIn returns the interfaces of a namespace by name.
func linksIn(ns string) (map[string]netlink.Link, error) {
	found := map[string]netlink.Link{}
	err := netns.Do(ns, func() error {
		all, err := redump.List(netlink.LinkList)
		for _, link := range all {
			found[link.Attrs().Name] = link
		}
		return err
	})
	return found, err
}

// checkListed looks at the second attachment: what the first one created may belong
// to the network.
func checkListed(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	if _, _, err := l.joined(ctx); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	before := map[string]map[string]netlink.Link{"": nil, c.ns: nil}
	for sandbox := range before {
		if before[sandbox], err = linksIn(l.place(sandbox)); err != nil {
			return err
		}
	}
	r, err := l.add(ctx, c)
	if err != nil {
		return err
	}
	for sandbox, old := range before {
		now, err := linksIn(l.place(sandbox))
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(now)) {
			if old[name] == nil && r.inside(name, sandbox) < 0 {
				return fmt.Errorf("ADD made interface %q, which the result does not list with sandbox %q: %+v", name, sandbox, r.Interfaces)
			}
		}
	}
	return nil
}

// place returns the namespace of a sandbox in a result.
func (l *lab) place(sandbox string) string {
	if sandbox == "" {
		return l.host
	}
	return sandbox
}

func checkTrue(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	a, err := l.sighted(ctx)
	if err != nil {
		return err
	}
	d, err := a.details()
	if err != nil {
		return err
	}
	for _, i := range d.Interfaces {
		if a.another[i.Sandbox] {
			return fmt.Errorf("the result says that interface %q is in %q, which is not the value of CNI_NETNS, %q", i.Name, i.Sandbox, a.ns)
		}
		links, known := a.nics[i.Sandbox]
		if !known {
			continue // a place that the suite does not know
		}
		nic := links[i.Name]
		switch {
		case nic == nil && !i.elsewhere():
			return fmt.Errorf("the result lists interface %q with sandbox %q, and there is none", i.Name, i.Sandbox)
		case nic == nil:
		case !sameMAC(i.Mac, nic.mac):
			return fmt.Errorf("the result says that %q has the hardware address %s, the kernel says %s", i.Name, i.Mac, nic.mac)
		case i.MTU != 0 && i.MTU != nic.mtu:
			return fmt.Errorf("the result says that %q has an MTU of %d, the kernel says %d", i.Name, i.MTU, nic.mtu)
		}
	}
	return nil
}

func checkTells(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.enters(), l.describes()); err != nil {
		return err
	}
	a, err := l.sighted(ctx)
	if err != nil {
		return err
	}
	d, err := a.details()
	if err != nil {
		return err
	}
	seen := a.nics[a.ns][a.ifName]
	if seen == nil {
		return conformance.NotApplicable("ADD makes no interface %q in the kernel", a.ifName)
	}
	for _, i := range d.Interfaces {
		if i.Name != a.ifName || i.Sandbox != a.ns {
			continue
		}
		if i.Mac == "" && seen.mac != "" {
			return fmt.Errorf("the result does not say the hardware address of %q, which is %s", i.Name, seen.mac)
		}
		if i.MTU == 0 && l.speaks("1.1.0") {
			return fmt.Errorf("the result does not say the MTU of %q, which is %d", i.Name, seen.mtu)
		}
		return nil
	}
	return fmt.Errorf("the result does not list interface %q: %s", a.ifName, a.container.result)
}

func checkAddresses(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	a, err := l.sighted(ctx)
	if err != nil {
		return err
	}
	r := a.result
	for _, ip := range r.IPs {
		address := canonical(ip.Address)
		if address == "" {
			return fmt.Errorf("the result's address %q is not in CIDR notation", ip.Address)
		}
		if ip.Gateway != "" && net.ParseIP(ip.Gateway) == nil {
			return fmt.Errorf("the result's gateway %q is no IP address", ip.Gateway)
		}
		if ip.Interface == nil {
			continue
		}
		if *ip.Interface < 0 || *ip.Interface >= len(r.Interfaces) {
			return fmt.Errorf("the result's address %s is on interface %d of %d", ip.Address, *ip.Interface, len(r.Interfaces))
		}
		i := r.Interfaces[*ip.Interface]
		if nic := a.nics[i.Sandbox][i.Name]; nic != nil && !nic.addresses[address] {
			return fmt.Errorf("the result says that interface %q (sandbox %q) has %s, the kernel knows %v", i.Name, i.Sandbox, ip.Address, slices.Sorted(maps.Keys(nic.addresses)))
		}
	}
	return nil
}

func checkNoMoreAddresses(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	a, err := l.sighted(ctx)
	if err != nil {
		return err
	}
	var told []string
	for _, ip := range a.result.IPs {
		told = append(told, canonical(ip.Address))
	}
	inside := a.nics[a.ns]
	for _, name := range slices.Sorted(maps.Keys(inside)) {
		for _, address := range inside[name].lasting {
			ip, _, err := net.ParseCIDR(address)
			if own := err == nil && ip.IsLoopback() && name != a.ifName; !own && !slices.Contains(told, address) {
				return fmt.Errorf("interface %q has the address %s, which the result does not say: %v", name, address, told)
			}
		}
	}
	return nil
}

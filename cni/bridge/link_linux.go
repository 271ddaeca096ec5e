package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// wiring talks to the kernel about both ends: the namespace that the plugin
// runs in, and the container's.
type wiring struct {
	ns           *netns.Handle
	host, inside *netlink.Handle
}

func open(path string) (w *wiring, err error) {
	w = &wiring{}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.ns, err = netns.Open(path); err != nil {
		return nil, err
	}
	if w.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	// A socket stays in the namespace that it was made in.
	err = w.ns.Do(func() (err error) {
		w.inside, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening netlink in %q: %w", path, err)
	}
	return w, nil
}

func (w *wiring) close() {
	for _, h := range []*netlink.Handle{w.host, w.inside} {
		if h != nil {
			h.Close()
		}
	}
	if w.ns != nil {
		w.ns.Close()
	}
}

// ensureBridge returns the bridge, made if need be, with the gateway's
// addresses.
func (w *wiring) ensureBridge(c *Config, ips []*types100.IPConfig) (netlink.Link, error) {
	br, err := w.host.LinkByName(c.Bridge)
	if isNotFound(err) {
		br, err = w.makeBridge(c)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for bridge %q: %w", c.Bridge, err)
	}
	if br.Type() != "bridge" {
		return nil, cni.Errorf(cni.CodeConfig, "bridge %q: an interface of this name exists and is a %s", c.Bridge, br.Type())
	}
	if br.Attrs().Flags&net.FlagUp == 0 {
		if err := w.host.LinkSetUp(br); err != nil {
			return nil, fmt.Errorf("bringing bridge %q up: %w", c.Bridge, err)
		}
	}
	if c.PromiscMode && br.Attrs().Promisc == 0 {
		if err := w.host.SetPromiscOn(br); err != nil {
			return nil, fmt.Errorf("making bridge %q promiscuous: %w", c.Bridge, err)
		}
	}
	for _, ip := range ips {
		if !c.IsGateway {
			break
		}
		a := gatewayAddr(ip)
		if err := w.host.AddrAdd(br, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("giving bridge %q the address %s: %w", c.Bridge, a.IPNet, err)
		}
	}
	return br, nil
}

// makeBridge makes the bridge with an address of its own: one without would
// take that of a port, and change it as ports come and go. When another ADD is
// faster, that one's bridge is as good.
func (w *wiring) makeBridge(c *Config) (netlink.Link, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, err
	}
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = c.Bridge, c.MTU, mac
	err := w.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making it: %w", err)
	}
	// A container must not tell the host its routes.
	if err := writeSysctl("net/ipv6/conf/"+c.Bridge+"/accept_ra", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return w.host.LinkByName(c.Bridge)
}

// connect makes the pair, with one end in the container, in a single request:
// nothing is ever half moved.
func (w *wiring) connect(r *cni.Request, c *Config, br netlink.Link) (host, guest netlink.Link, err error) {
	mac, err := c.mac()
	if err != nil {
		return nil, nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = hostName(r.Network, r.Attachment), c.MTU, br.Attrs().Index, net.FlagUp
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: r.IfName, PeerMTU: uint32(c.MTU),
		PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(w.ns.FD()),
	}
	if err := w.host.LinkAdd(pair); errors.Is(err, unix.EEXIST) {
		return nil, nil, cni.Errorf(cni.CodeExists, "interface %q of an earlier ADD exists on the host: DEL removes it", attrs.Name)
	} else if err != nil {
		return nil, nil, fmt.Errorf("making veth pair %q: %w", attrs.Name, err)
	}
	r.Undo("veth pair "+attrs.Name, func(context.Context) error { return disconnect(attrs.Name) })
	if host, err = w.host.LinkByName(attrs.Name); err != nil {
		return nil, nil, fmt.Errorf("looking for %q: %w", attrs.Name, err)
	}
	if c.HairpinMode {
		if err := w.host.LinkSetHairpin(host, true); err != nil {
			return nil, nil, fmt.Errorf("setting hairpin mode of %q: %w", attrs.Name, err)
		}
	}
	if guest, err = w.inside.LinkByName(r.IfName); err != nil {
		return nil, nil, fmt.Errorf("looking for %q in the container: %w", r.IfName, err)
	}
	return host, guest, nil
}

// configure gives the container's end its addresses and routes. The link comes
// up first: packets to an IPv6 address that was there before it are lost for the
// first second (measured on Linux 6.18).
func (w *wiring) configure(guest netlink.Link, result *cni.Result) error {
	if err := w.inside.LinkSetUp(guest); err != nil {
		return fmt.Errorf("bringing %q up: %w", guest.Attrs().Name, err)
	}
	for _, ip := range result.IPs {
		if err := w.inside.AddrAdd(guest, address(ip.Address)); err != nil {
			return fmt.Errorf("adding address %s: %w", &ip.Address, err)
		}
	}
	for _, r := range result.Routes {
		route := &netlink.Route{
			LinkIndex: guest.Attrs().Index, Dst: &r.Dst, Gw: r.GW,
			MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority,
		}
		if r.Table != nil {
			route.Table = *r.Table
		}
		if r.Scope != nil {
			route.Scope = netlink.Scope(*r.Scope)
		} else if r.GW == nil {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := w.inside.RouteAdd(route); err != nil {
			return fmt.Errorf("adding route %s by %s: %w", &r.Dst, r.GW, err)
		}
	}
	return nil
}

// address returns the address without duplicate address detection, which would
// keep an IPv6 one from use for seconds; IPAM has ruled duplicates out.
func address(n net.IPNet) *netlink.Addr {
	a := &netlink.Addr{IPNet: &n}
	if n.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// gatewayAddr returns the bridge's address in the subnet of ip.
func gatewayAddr(ip *types100.IPConfig) *netlink.Addr {
	gw := ip.Gateway
	if gw == nil {
		gw = firstOf(ip.Address)
	}
	return address(net.IPNet{IP: gw, Mask: ip.Address.Mask})
}

// disconnect removes a pair by its host's end. It succeeds when there is none.
func disconnect(name string) error { return removeLink(name, "veth") }

func removeBridge(name string) error { return removeLink(name, "bridge") }

func removeLink(name, kind string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for %q: %w", name, err)
	}
	if l.Type() != kind {
		return fmt.Errorf("removing %q: it is a %s, not a %s", name, l.Type(), kind)
	}
	if err := h.LinkDel(l); err != nil && !isNotFound(err) {
		return fmt.Errorf("removing %q: %w", name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// enableForwarding switches the host's forwarding on where it is off.
func enableForwarding(ipv4 bool) error {
	if ipv4 {
		return writeSysctl("net/ipv4/ip_forward", "1")
	}
	return writeSysctl("net/ipv6/conf/all/forwarding", "1")
}

// writeSysctl writes the value unless it is set: /proc/sys may be read-only.
func writeSysctl(name, value string) error {
	path := "/proc/sys/" + name
	old, err := os.ReadFile(path)
	if err == nil && string(old) == value+"\n" {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("setting sysctl %s: %w", name, err)
	}
	return nil
}

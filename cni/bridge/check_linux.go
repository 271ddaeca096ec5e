package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// check compares the kernel with the final result of ADD, which later plugins
// of the chain may have changed, and never writes.
func check(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	w, err := open(r.NetNS)
	if err != nil {
		return err
	}
	defer w.close()
	mine := -1
	for i, nic := range r.PrevResult.Interfaces {
		if nic.Name == r.IfName && nic.Sandbox != "" {
			mine = i
		}
	}
	if mine < 0 {
		return cni.Errorf(cni.CodeConfig, "prevResult has no interface %q", r.IfName)
	}
	var ips []*types100.IPConfig
	for _, ip := range r.PrevResult.IPs {
		if ip.Interface != nil && *ip.Interface == mine {
			ips = append(ips, ip)
		}
	}
	err = errors.Join(
		w.checkGuest(r.PrevResult.Interfaces[mine], ips),
		w.checkRoutes(r),
		w.checkHost(r, c, ips),
		checkMasquerade(r, c, ips),
	)
	if err != nil {
		return cni.Errorf(cni.CodeNotAsExpected, "%w", err)
	}
	return nil
}

func (w *wiring) checkGuest(want *types100.Interface, ips []*types100.IPConfig) error {
	l, err := w.inside.LinkByName(want.Name)
	if err != nil {
		return fmt.Errorf("interface %q in the container: %w", want.Name, err)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("interface %q in the container is down", want.Name)
	}
	if got := l.Attrs().HardwareAddr.String(); want.Mac != "" && got != want.Mac {
		return fmt.Errorf("interface %q in the container has the address %s instead of %s", want.Name, got, want.Mac)
	}
	for _, ip := range ips {
		if err := hasAddress(w.inside, l, &ip.Address); err != nil {
			return err
		}
	}
	return nil
}

func (w *wiring) checkRoutes(r *cni.Request) error {
	for _, want := range r.PrevResult.Routes {
		filter := &netlink.Route{Dst: &want.Dst, Table: unix.RT_TABLE_MAIN}
		if want.Table != nil {
			filter.Table = *want.Table
		}
		routes, err := retry(func() ([]netlink.Route, error) {
			return w.inside.RouteListFiltered(family(want.Dst.IP), filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
		if len(routes) == 0 {
			return fmt.Errorf("the route to %s is missing in the container", &want.Dst)
		}
	}
	return nil
}

func (w *wiring) checkHost(r *cni.Request, c *Config, ips []*types100.IPConfig) error {
	br, err := w.host.LinkByName(c.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %q: %w", c.Bridge, err)
	}
	if br.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("bridge %q is down", c.Bridge)
	}
	name := hostName(r.Network, r.Attachment)
	host, err := w.host.LinkByName(name)
	switch {
	case err != nil:
		return fmt.Errorf("interface %q on the host: %w", name, err)
	case host.Attrs().Flags&net.FlagUp == 0:
		return fmt.Errorf("interface %q on the host is down", name)
	case host.Attrs().MasterIndex != br.Attrs().Index:
		return fmt.Errorf("interface %q on the host is not a port of bridge %q", name, c.Bridge)
	}
	for _, ip := range ips {
		if c.IsGateway {
			if err := hasAddress(w.host, br, gatewayAddr(ip).IPNet); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkMasquerade(r *cni.Request, c *Config, ips []*types100.IPConfig) error {
	if !c.IPMasq {
		return nil
	}
	rules := table(c)
	if err := rules.Verify(); err != nil {
		return fmt.Errorf("masquerading: %w", err)
	}
	have, err := rules.Elements()
	if err != nil {
		return err
	}
	owner := nft.Owner(r.Network, r.Attachment.String())
	for _, ip := range ips {
		want, found := masqElement(ip.Address.IP, owner), false
		for _, e := range have {
			found = found || e.Set == want.Set && e.Owner == owner && bytes.Equal(e.Key, want.Key)
		}
		if !found {
			return fmt.Errorf("address %s is not masqueraded", ip.Address.IP)
		}
	}
	return nil
}

func hasAddress(h *netlink.Handle, l netlink.Link, want *net.IPNet) error {
	addrs, err := retry(func() ([]netlink.Addr, error) { return h.AddrList(l, family(want.IP)) })
	if err != nil {
		return fmt.Errorf("listing addresses of %q: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		if a.IP.Equal(want.IP) && a.Mask.String() == want.Mask.String() {
			return nil
		}
	}
	return fmt.Errorf("interface %q lacks the address %s", l.Attrs().Name, want)
}

func family(ip net.IP) int {
	if ip.To4() != nil {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// retry asks the kernel again when its answer was interrupted by a change.
func retry[T any](list func() ([]T, error)) (out []T, err error) {
	const tries = 10
	for range tries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

package bridge

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nlsock"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// configure brings the container's end up and adds its addresses and routes, in one
// request. The link comes up first: if an IPv6 address is there before, packets to it
// are lost for the first second (measured on Linux 6.18).
func (w *wiring) configure(ctx context.Context, r *cni.Request, l *rtnl.Link, todo *plan, detect bool) error {
	if slices.ContainsFunc(todo.ips, func(ip netip.Prefix) bool { return ip.Addr().Is6() }) {
		if err := r.InNetNS(func() error { return prepareIPv6(l.Name, detect) }); err != nil {
			return err
		}
	}
	requests := []*nlsock.Message{rtnl.AnnounceARP(l)}
	for _, ip := range todo.ips {
		requests = append(requests, rtnl.AddAddress(l, ip, detect))
	}
	routes, err := rtnl.RoutesBy(l, todo.result.Routes)
	if err != nil {
		return err
	}
	if detect { // the kernel refuses routes whose source address is still tentative
		if err := w.inside.Do(requests...); err != nil {
			return err
		}
		if err := w.settle(ctx, l); err != nil {
			return err
		}
		requests = nil
	}
	for i := range routes {
		requests = append(requests, rtnl.AddRoute(&routes[i]))
	}
	return w.inside.Do(requests...)
}

// prepareIPv6 sets what only sysctls can set. It runs in the container's namespace.
func prepareIPv6(link string, detect bool) error {
	conf := "net/ipv6/conf/" + link + "/"
	settings := [][2]string{
		{"net/ipv6/conf/lo/disable_ipv6", "0"},
		{conf + "disable_ipv6", "0"},
		{conf + "keep_addr_on_down", "1"},
		{conf + "ndisc_notify", "1"},
		{conf + "accept_dad", "0"},
	}
	if detect {
		settings[len(settings)-1][1] = "1"
		settings = append(settings, [2]string{conf + "enhanced_dad", "1"})
	}
	for _, s := range settings {
		if err := sysctl.Ensure(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// settleTime is how long duplicate address detection may take.
const settleTime = 10 * time.Second

// settle waits until no address of the link is tentative.
func (w *wiring) settle(ctx context.Context, l *rtnl.Link) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		have, err := w.inside.AllAddresses(l)
		if err != nil {
			return err
		}
		tentative := false
		for _, a := range have {
			if a.Duplicate {
				return cni.Errorf(cni.CodeExists, "address %s is in use by another interface on the link (duplicate address detection)", a.Prefix)
			}
			tentative = tentative || a.Tentative
		}
		if !tentative {
			return nil
		}
		select {
		case <-ctx.Done():
			return cni.Errorf(cni.CodeTryAgain, "duplicate address detection on %q does not end: %w", l.Name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

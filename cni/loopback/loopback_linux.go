package loopback

import (
	"context"
	"errors"
	"fmt"
	"net"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netns"
)

func add(_ context.Context, r *cni.Request, _ *config) (*cni.Result, error) {
	result := &cni.Result{Interfaces: []*types100.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: r.NetNS}}}
	err := withLo(r.NetNS, func(h *netlink.Handle, lo netlink.Link) error {
		result.Interfaces[0].Mtu = lo.Attrs().MTU
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bringing lo up: %w", err)
		}
		addrs, err := h.AddrList(lo, netlink.FAMILY_ALL)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("listing addresses of lo: %w", err)
		}
		for _, a := range addrs {
			result.IPs = append(result.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: *a.IPNet})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return cni.Merge(r.PrevResult, result), nil
}

func check(_ context.Context, r *cni.Request, _ *config) error {
	return withLo(r.NetNS, func(_ *netlink.Handle, lo netlink.Link) error {
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return cni.Errorf(cni.CodeNotAsExpected, "lo is down")
		}
		return nil
	})
}

func withLo(path string, fn func(*netlink.Handle, netlink.Link) error) error {
	return netns.Do(path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("opening netlink: %w", err)
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("looking for lo: %w", err)
		}
		return fn(h, lo)
	})
}

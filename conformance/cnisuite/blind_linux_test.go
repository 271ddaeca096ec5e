package cnisuite_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
)

// observers are the good plugin with another CHECK or STATUS.
func observers() map[string]func(*cni.Plugin) {
	all := map[string]func(*cni.Plugin){
		"never-ready": func(p *cni.Plugin) {
			p.Status = func(context.Context, *cni.Request) error { return errors.New("not today") }
		},
		"never-well": checking(func(*cni.Request) error { return errors.New("not today") }),
		"check-writes": checking(func(r *cni.Request) error {
			return os.WriteFile(note(r), []byte(time.Now().String()), 0o600)
		}),
		"status-writes": func(p *cni.Plugin) {
			p.Status = func(_ context.Context, r *cni.Request) error {
				return os.WriteFile(filepath.Join(r.Config.(*config).State, "asked"), nil, 0o600)
			}
		},
		"jealous": checking(func(r *cni.Request) error { return r.InNetNS(alone) }),
		"jumpy": checking(func(r *cni.Request) error {
			l, err := netlink.LinkByName(hostEnd(r))
			if err == nil && l.Attrs().Promisc != 0 {
				err = errors.New("somebody listens")
			}
			return err
		}),
		"blind-to-the-host": func(p *cni.Plugin) { p.Add = onBridge },
	}
	for _, blind := range []string{"link", "address", "route", "mac", "up"} {
		all["blind-to-"+blind] = func(p *cni.Plugin) {
			p.Check = func(ctx context.Context, r *cni.Request) error { return check(blind)(ctx, r, r.Config.(*config)) }
		}
	}
	return all
}

// checking does something before the good CHECK.
func checking(first func(*cni.Request) error) func(*cni.Plugin) {
	return func(p *cni.Plugin) {
		rest := p.Check
		p.Check = func(ctx context.Context, r *cni.Request) error {
			if err := first(r); err != nil {
				return err
			}
			return rest(ctx, r)
		}
	}
}

// alone bears no route but those that it knows.
func alone() error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	for _, route := range routes {
		if route.Dst != nil && route.Dst.String() == "10.125.0.0/16" {
			err = fmt.Errorf("there is a route that is not mine: %s", route.Dst)
		}
	}
	return err
}

// onBridge also makes the host's side: a bridge with the gateway's address, a
// firewall's table, and a limit on what the container sends. CHECK knows nothing
// of them, and DEL leaves them to the test.
func onBridge(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	out, err := add(ctx, r, r.Config.(*config))
	if err != nil {
		return nil, err
	}
	port, err := netlink.LinkByName(hostEnd(r))
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "blind0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	gateway := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 123, 0, 1).To4(), Mask: net.CIDRMask(16, 32)}}
	limit := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       1 << 20, Buffer: 1 << 16, Limit: 1 << 16,
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	conn.AddTable(&nftables.Table{Name: "blind", Family: nftables.TableFamilyIPv4})
	return out, errors.Join(
		netlink.LinkSetMasterByIndex(port, bridge.Attrs().Index),
		netlink.AddrAdd(bridge, gateway),
		netlink.QdiscAdd(limit),
		conn.Flush(),
	)
}

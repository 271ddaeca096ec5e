// Package wires connects network namespaces to a bridge with bare netlink calls,
// without lookups, records or checks: a lower bound for any network plugin.
package wires

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// Bridge is a bridge in the network namespace of the calling process. Create one with
// New. It is safe for concurrent use.
type Bridge struct {
	host *netlink.Handle
	link netlink.Link
}

// New creates the bridge, which must not exist. Close it after use.
func New() (*Bridge, error) {
	host, err := netlink.NewHandle()
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "floor0", net.HardwareAddr{2, 0, 0, 0, 0, 1}
	b := &Bridge{host: host, link: &netlink.Bridge{LinkAttrs: attrs}}
	if err := host.LinkAdd(b.link); err != nil {
		host.Close()
		return nil, err
	}
	if err := host.LinkSetUp(b.link); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close removes the bridge.
func (b *Bridge) Close() error {
	defer b.host.Close()
	return b.host.LinkDel(b.link)
}

// Add gives the network namespace pinned at path an eth0 with an address, the same for
// all, and a default route. The other end, a port of the bridge, gets the name.
func (b *Bridge) Add(path, name string) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	var inside *netlink.Handle
	err = ns.Do(func() (err error) {
		inside, err = netlink.NewHandle()
		return err
	})
	if err != nil {
		return err
	}
	defer inside.Close()
	pair := b.pair(name)
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(ns.FD())
	return errors.Join(b.host.LinkAdd(pair), equip(inside))
}

// Del removes what Add has created, and waits for the kernel. The end of the namespace
// has the same effect, without waiting.
func (b *Bridge) Del(name string) error { return b.host.LinkDel(b.pair(name)) }

// Settle waits until nothing is connected to the bridge, or ctx ends.
func (b *Bridge) Settle(ctx context.Context) error {
	for {
		links, err := b.host.LinkList()
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		if err == nil && !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().MasterIndex == b.link.Attrs().Index }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *Bridge) pair(name string) *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Flags = name, b.link.Attrs().Index, net.FlagUp
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1 // which saves the kernel a wait (rtnl.AddPair)
	return &netlink.Veth{LinkAttrs: attrs}
}

func equip(inside *netlink.Handle) error {
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 250, 0, 2).To4(), Mask: net.CIDRMask(24, 32)}}
	return errors.Join(
		inside.AddrAdd(eth0, addr), inside.LinkSetUp(eth0),
		inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 250, 0, 1).To4()}),
	)
}

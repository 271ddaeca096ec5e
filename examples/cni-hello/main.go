// Command cni-hello gives a container one half of a veth pair, with the addresses of an IPAM plugin. It is a CNI plugin.
// Copy this folder, rename hello, and replace what add and del do.
package main

import (
	"context"
	"errors"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/vishvananda/netlink"
)

type config struct { // what users may write; any other key is refused by name
	IPAM cni.IPAM `json:"ipam"`
}

func main() { cni.Main(cni.New("hello", cni.Handlers[config]{Add: add, Del: del})) }

func add(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	result, err := r.Delegate(c.IPAM.Type).Add(ctx)
	if err != nil {
		return nil, err
	}
	result.Interfaces = []*cni.Interface{{Name: r.IfName, Sandbox: r.NetNS}}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: r.IfName, TxQLen: -1}, PeerName: "peer"}
	return result, r.InNetNS(func() error {
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		r.Undo("veth pair", func(ctx context.Context) error { return del(ctx, r, c) })
		for _, ip := range result.IPs {
			ip.Interface = new(int) // the first in the list of interfaces
			err = errors.Join(err, netlink.AddrAdd(pair, &netlink.Addr{IPNet: &ip.Address}))
		}
		return errors.Join(err, netlink.LinkSetUp(pair))
	})
}

// del succeeds when there is nothing to delete. The SDK gives the addresses back behind it.
func del(_ context.Context, r *cni.Request, _ *config) error {
	return r.InNetNS(func() error {
		if link, err := netlink.LinkByName(r.IfName); err == nil {
			return netlink.LinkDel(link)
		} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
			return err
		}
		return nil
	})
}

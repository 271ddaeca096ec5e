// Command cni-hello gives a container a network interface, half of a veth pair. It is a CNI plugin.
// Copy this folder, rename hello, and replace what add and del do.
package main

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
)

// config is what users may write; any other key is refused by name.
type config struct {
	MTU int `json:"mtu"`
}

func main() { cni.Main(cni.New("hello", cni.Handlers[config]{Add: add, Del: del})) }

// add makes the interface. The SDK has verified the network namespace, and a failure undoes what was done.
func add(_ context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	nic, attrs := &types100.Interface{Name: r.IfName, Sandbox: r.NetNS}, netlink.LinkAttrs{Name: r.IfName, MTU: c.MTU, TxQLen: -1}
	return &cni.Result{Interfaces: []*types100.Interface{nic}}, r.InNetNS(func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
			return err // also when the name is taken, as the specification demands
		}
		r.Undo("veth pair", func(ctx context.Context) error { return del(ctx, r, c) })
		link, err := netlink.LinkByName(r.IfName)
		if err == nil {
			nic.Mac, err = link.Attrs().HardwareAddr.String(), netlink.LinkSetUp(link)
		}
		return err
	})
}

// del succeeds when there is nothing to delete: a namespace that is gone took the pair with it.
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

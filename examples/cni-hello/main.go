// Command cni-hello connects a container to the host by a veth pair, with the addresses of an IPAM plugin. It is a CNI plugin.
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
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: r.IfName, PeerNamespace: netlink.NsFd(r.NetNSFD())}
	pair.Name = r.HostName("hello", r.Network) // which del finds again, whatever happens to this process
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, err
	}
	r.Undo("veth pair", func(ctx context.Context) error { return del(ctx, r, c) })
	result.Interfaces = []*cni.Interface{{Name: pair.Name}} // Configure adds the container's end
	if err := errors.Join(netlink.LinkSetUp(pair), r.Configure(result)); err != nil {
		return nil, err
	}
	return cni.Merge(r.PrevResult, result), nil
}

// del succeeds when there is nothing to delete. The SDK gives the addresses back behind it.
func del(_ context.Context, r *cni.Request, _ *config) error {
	pair, err := netlink.LinkByName(r.HostName("hello", r.Network))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	} else if err != nil {
		return err
	}
	return netlink.LinkDel(pair)
}

// Command cni-hello is a CNI plugin: it connects a container to the host by a veth pair, with the addresses of an IPAM plugin.
package main

import (
	"context"
	"errors"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

type config struct { // what users may write; any other key is refused by name
	IPAM cni.IPAM `json:"ipam"`
	Root string   `json:"root"` // where /run/cni/hello is, which knows who is there: GC calls del for all that are gone
}

func main() {
	cni.Main(cni.New("hello", cni.Handlers[config]{Add: add, Del: del, Check: check, State: state}))
}
func state(c *config) string { return c.Root + "/run/cni/hello" }

func add(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	result, err := r.Delegate(c.IPAM.Type).Add(ctx)
	if err != nil {
		return nil, err
	}
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: r.IfName, PeerNamespace: netlink.NsFd(r.NetNSFD())}
	pair.Name = r.HostName("hello", r.Network) // which del finds again, whatever happens to this process
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, cni.Errorf(cni.CodeInternal, "creating %s and %s: %w", pair.Name, r.IfName, err)
	}
	r.Undo("veth pair", func(ctx context.Context) error { return del(ctx, r, c) })
	result.Interfaces = []*cni.Interface{{Name: pair.Name}} // Configure adds the container's end
	err = errors.Join(netlink.LinkSetUp(pair), r.Configure(result))
	return cni.Merge(r.PrevResult, result), err
}
func check(_ context.Context, r *cni.Request, _ *config) error { return r.Verify(r.PrevResult) }

func del(_ context.Context, r *cni.Request, _ *config) error { // the SDK gives the addresses back behind it
	pair, err := netlink.LinkByName(r.HostName("hello", r.Network))
	if err == nil {
		err = netlink.LinkDel(pair)
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) {
		return nil // there was nothing to delete, or another DEL is quicker
	}
	return err
}

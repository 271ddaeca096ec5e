// Command cni-static is a CNI plugin for tests: an interface with one fixed
// address, and no key for IPAM.
package main

import (
	"context"
	"errors"
	"net"

	"github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
)

func main() { cni.Main(cni.New("static", cni.Handlers[struct{}]{Add: add, Del: del})) }

func add(_ context.Context, r *cni.Request, _ *struct{}) (*cni.Result, error) {
	address := net.IPNet{IP: net.IPv4(192, 0, 2, 77), Mask: net.CIDRMask(32, 32)}
	index := 0
	result := &cni.Result{
		Interfaces: []*types100.Interface{{Name: r.IfName, Sandbox: r.NetNS}},
		IPs:        []*types100.IPConfig{{Address: address, Interface: &index}},
	}
	return result, r.InNetNS(func() error {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: r.IfName, TxQLen: -1}, PeerName: "peer"}
		return errors.Join(netlink.LinkAdd(link), netlink.AddrAdd(link, &netlink.Addr{IPNet: &address}), netlink.LinkSetUp(link))
	})
}

func del(_ context.Context, r *cni.Request, _ *struct{}) error {
	return r.InNetNS(func() error {
		if link, err := netlink.LinkByName(r.IfName); err == nil {
			return netlink.LinkDel(link)
		}
		return nil
	})
}

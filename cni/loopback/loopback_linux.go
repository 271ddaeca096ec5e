package loopback

import (
	"context"
	"net"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

func add(_ context.Context, r *cni.Request, _ *config) (*cni.Result, error) {
	var result *cni.Result
	err := withLo(r, func(conn *rtnl.Conn, lo *rtnl.Link) error {
		if err := conn.Do(rtnl.Up(lo)); err != nil {
			return err
		}
		addresses, err := conn.AllAddresses(lo)
		if err != nil {
			return err
		}
		result, err = describe(r, lo, addresses)
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.PrevResult != nil {
		return nil, nil // the result concerns other interfaces and is passed on unchanged
	}
	return result, nil
}

// describe builds the result. An address on lo that is not the kernel's own is
// somebody's mistake, which a result that contains it would spread.
func describe(r *cni.Request, lo *rtnl.Link, addresses []rtnl.Address) (*cni.Result, error) {
	out := &cni.Result{Interfaces: []*cni.Interface{{Name: lo.Name, Mac: "00:00:00:00:00:00", Mtu: lo.MTU, Sandbox: r.NetNS}}}
	for _, a := range addresses {
		ip := a.Prefix.Addr()
		if !ip.IsLoopback() {
			return nil, cni.Errorf(cni.CodeExists, "lo has the address %s, which is no loopback address", a.Prefix)
		}
		out.IPs = append(out.IPs, &types100.IPConfig{
			Interface: types100.Int(0),
			Address:   net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), ip.BitLen())},
		})
	}
	return out, nil
}

func check(_ context.Context, r *cni.Request, _ *config) error {
	return withLo(r, func(_ *rtnl.Conn, lo *rtnl.Link) error {
		if !lo.Up {
			return cni.Errorf(cni.CodeNotAsExpected, "lo is down")
		}
		return nil
	})
}

func repair(_ context.Context, r *cni.Request, _ *config) error {
	return withLo(r, func(conn *rtnl.Conn, lo *rtnl.Link) error { return conn.Do(rtnl.Up(lo)) })
}

// withLo calls fn with the container's loopback interface.
func withLo(r *cni.Request, fn func(*rtnl.Conn, *rtnl.Link) error) error {
	return r.InNetNS(func() error {
		conn, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		lo, err := conn.Link("lo")
		if err != nil {
			return err
		}
		return fn(conn, lo)
	})
}

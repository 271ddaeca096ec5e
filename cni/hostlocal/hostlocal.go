package hostlocal

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/state"
)

// Plugin returns the plugin, under its usual name "host-local".
func Plugin() *cni.Plugin { return plugin(thisBoot) }

// plugin returns the plugin as it behaves in the boot that current returns, which is
// called for every call of the plugin.
func plugin(current func() boot) *cni.Plugin {
	k := keeper{current}
	p := cni.New("host-local", cni.Handlers[config]{Add: k.add, Del: k.del, Check: k.check, GC: k.gc, Status: k.status, Repair: k.repair})
	p.IPAM = true
	return p
}

type keeper struct{ boot func() boot }

func (k keeper) add(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	p, err := c.plan(r)
	if err != nil {
		return nil, err
	}
	dns, err := c.IPAM.dns()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	var fresh []holding
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	err = withStore(ctx, s, true, func() (err error) {
		addrs, fresh, err = s.reserve(r.Attachment, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.Undo("reservations", func(ctx context.Context) error { // for an ADD that is canceled
		s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
		return withStore(ctx, s, false, func() error { return s.giveBack(r.Attachment, fresh) })
	})
	result := &cni.Result{Routes: p.routes, DNS: dns}
	for i, a := range addrs {
		in := p.sets[i].rangeOf(a)
		ip := &types100.IPConfig{Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(in.subnet.Bits(), a.BitLen())}}
		if in.gateway.IsValid() {
			ip.Gateway = in.gateway.AsSlice()
		}
		result.IPs = append(result.IPs, ip)
	}
	return result, nil
}

func (k keeper) del(ctx context.Context, r *cni.Request, c *config) error {
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	return withStore(ctx, s, false, func() error { return s.release(r.Attachment, c.IPAM.delay()) })
}

func (k keeper) gc(ctx context.Context, r *cni.Request, c *config) error {
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	return withStore(ctx, s, false, func() error { return s.collect(r.Valid, c.IPAM.delay()) })
}

// check compares the reservations with prevResult: each of its addresses in the
// configured ranges, and at least one, must be reserved for the attachment.
func (k keeper) check(ctx context.Context, r *cni.Request, c *config) error {
	p, err := c.plan(r)
	if err != nil {
		return err
	}
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	return withStore(ctx, s, false, func() error {
		damaged, err := s.reportDamage()
		if err != nil {
			return err
		}
		held, err := s.heldBy(r.Attachment)
		if err != nil {
			return err
		}
		for _, a := range p.own(r.PrevResult) {
			is := func(h holding) bool { return h.addr == a }
			if slices.ContainsFunc(held, is) {
				continue
			}
			why := ""
			if slices.ContainsFunc(damaged, is) {
				why = ": its reservation is damaged"
			}
			return cni.Errorf(cni.CodeNotAsExpected, "address %s is not reserved for %q in network %q%s", a, r.Attachment, r.Network, why)
		}
		if len(held) == 0 {
			return cni.Errorf(cni.CodeNotAsExpected, "no address is reserved for %q in network %q", r.Attachment, r.Network)
		}
		return nil
	})
}

// repair restores reservations of prevResult's addresses that are lost, damaged or of
// an earlier boot. An address that by now belongs to somebody else stays theirs;
// CHECK continues to report it.
func (k keeper) repair(ctx context.Context, r *cni.Request, c *config) error {
	p, err := c.plan(r)
	if err != nil {
		return err
	}
	own := p.own(r.PrevResult)
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	return withStore(ctx, s, len(own) > 0, func() error {
		held, err := s.heldBy(r.Attachment)
		if err != nil {
			return err
		}
		for _, a := range own {
			if err := s.restore(r.Attachment, held, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// own returns the result's addresses that are in the configured ranges.
func (p plan) own(result *cni.Result) (addrs []netip.Addr) {
	for _, ip := range result.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if a = a.Unmap(); ok && slices.ContainsFunc(p.sets, func(s rangeSet) bool { return s.rangeOf(a) != nil }) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (k keeper) status(ctx context.Context, r *cni.Request, c *config) error {
	p, err := c.plan(r)
	if err != nil {
		return err
	}
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	return withStore(ctx, s, false, func() error {
		if s.dir < 0 { // ADD creates the directory
			return state.Open(s.path).Check()
		}
		if _, err := s.reportDamage(); err != nil {
			return err
		}
		for _, set := range p.sets {
			_, ok := s.idx.free(set, netip.Addr{})
			ok = ok || len(s.staleIn(set)) > 0
			if s.idx.err != nil {
				return errOutdated
			}
			if !ok {
				return cni.Errorf(cni.CodeUnavailable, "every address of %s is reserved in network %q%s", set, r.Network, s.keptBack(set))
			}
		}
		return nil
	})
}

// keptBack lists the addresses of the set that damaged reservations keep reserved.
func (s *store) keptBack(set rangeSet) string {
	var addrs []string
	for _, h := range s.idx.held(damagedKey()) {
		if set.rangeOf(h.addr) != nil {
			addrs = append(addrs, h.addr.String())
		}
	}
	if len(addrs) == 0 {
		return ""
	}
	return fmt.Sprintf("; damaged reservations keep back %s", strings.Join(addrs, ", "))
}

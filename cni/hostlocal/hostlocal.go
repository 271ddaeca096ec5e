// Package hostlocal is the host-local IPAM plugin: it hands out addresses of
// configured ranges and keeps the reservations in files on this host (CNI
// specification 1.1.0, section 4).
//
// The files are those of the upstream plugin of the same name: one per address
// below dataDir/<network>, named by the address, with the container id and the
// interface name inside. Either program can follow the other at any time. What
// upstream's does not know stays out of its way: an extended attribute with the
// boot, files that begin with a dot, and an index that makes a call's time
// independent of the number of reservations. The index is never the truth.
//
// # Crashes
//
// A reservation appears whole or not at all, so a kill -9 never loses an
// address: DEL or GC finds what it left. A file that a crashed writer of another
// program left empty is put aside, and its address is free again; one that is
// damaged in another way keeps its address back. Both are reported to the log,
// by CHECK, STATUS and the list for people, and never passed over in silence.
//
// Nothing is synced to disk. A power failure can lose reservations, bring back
// some that were released, and leave empty files: all of them are of containers
// that died with the power, and are treated as such because of their boot.
//
// # Reboots
//
// No container outlives the kernel's boot. The reservation of an earlier boot
// still serves the container of the same name, which gets its old address, and
// otherwise counts as free for STATUS, for an ADD that asks for the address and
// for one that finds no other. GC goes by the runtime's list alone.
//
// Calls of any number of processes may overlap; a file lock per network, which
// is upstream's too, orders them.
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
)

// Plugin returns the plugin, under its usual name "host-local".
func Plugin() *cni.Plugin { return plugin(thisBoot) }

// plugin returns the plugin as it behaves in the boot, which is asked for at
// every call.
func plugin(current func() boot) *cni.Plugin {
	k := keeper{current}
	p := cni.New("host-local", cni.Handlers[config]{Add: k.add, Del: k.del, Check: k.check, GC: k.gc, Status: k.status})
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
	s := newStore(c.IPAM.dataDir(), r.Network, k.boot(), r.Log)
	err = withStore(ctx, s, true, func() (err error) {
		addrs, err = s.reserve(r.Attachment, p)
		return err
	})
	if err != nil {
		return nil, err
	}
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

// check holds the reservations to prevResult: each of its addresses that is of
// the configured ranges, and one at least, is the attachment's.
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

// own returns the addresses of a result that are of the configured ranges.
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

// keptBack says which addresses of the set damaged reservations keep back.
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

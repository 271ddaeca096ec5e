// Package hostlocal is the host-local IPAM plugin: it hands out addresses of
// configured ranges and keeps the reservations in files on this host (CNI
// specification 1.1.0, section 4).
//
// The files are those of the upstream plugin of the same name: one per address
// below dataDir/<network>, named by the address, with the container id and the
// interface name inside. Either program can follow the other.
//
// A reservation appears whole or not at all, so a kill -9 never loses an
// address: DEL or GC finds what it left. Files that a crashed writer of another
// program left empty are taken back. Nothing is synced to disk: what a power
// failure can lose or resurrect are reservations of containers that died with
// the power.
//
// Calls of any number of processes may overlap; a file lock per network orders
// them.
package hostlocal

import (
	"context"
	"net"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
)

// Plugin returns the plugin, under its usual name "host-local".
func Plugin() *cni.Plugin {
	p := cni.New("host-local", cni.Handlers[config]{Add: add, Del: del, Check: check, GC: gc, Status: status})
	p.IPAM = true
	return p
}

func add(_ context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	sets, err := c.sets()
	if err != nil {
		return nil, err
	}
	asked, err := c.requested(sets)
	if err != nil {
		return nil, err
	}
	s, err := open(c.IPAM.dataDir(), r.Network)
	if err != nil {
		return nil, err
	}
	defer s.close()
	addrs, err := s.reserve(r.Attachment, sets, asked)
	if err != nil {
		return nil, err
	}
	result := &cni.Result{Routes: c.IPAM.Routes}
	for i, a := range addrs {
		in := sets[i].rangeOf(a)
		result.IPs = append(result.IPs, &types100.IPConfig{
			Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(in.subnet.Bits(), a.BitLen())},
			Gateway: in.gateway.AsSlice(),
		})
	}
	return result, nil
}

func del(_ context.Context, r *cni.Request, c *config) error {
	return withStore(c, r.Network, func(s *store) error {
		return s.release(func(held reservation) bool { return held.of(r.Attachment) })
	})
}

func gc(_ context.Context, r *cni.Request, c *config) error {
	keys, containers := map[string]bool{}, map[string]bool{}
	for _, v := range r.Valid {
		keys[keyOf(v)], containers[v.ContainerID] = true, true
	}
	return withStore(c, r.Network, func(s *store) error {
		return s.release(func(held reservation) bool {
			return !keys[held.key] && (held.owner.IfName != "" || !containers[held.owner.ContainerID])
		})
	})
}

func check(_ context.Context, r *cni.Request, c *config) error {
	found := false
	err := withStore(c, r.Network, func(s *store) error {
		for _, held := range s.held {
			found = found || held.of(r.Attachment)
		}
		return nil
	})
	if err == nil && !found {
		return cni.Errorf(cni.CodeNotAsExpected, "no address is reserved for %q in network %q", r.Attachment, r.Network)
	}
	return err
}

func status(_ context.Context, r *cni.Request, c *config) error {
	sets, err := c.sets()
	if err != nil {
		return err
	}
	return withStore(c, r.Network, func(s *store) error {
		for _, set := range sets {
			if _, ok := s.free(set, netip.Addr{}); !ok {
				return cni.Errorf(cni.CodeUnavailable, "every address of %s is reserved in network %q", set, r.Network)
			}
		}
		return nil
	})
}

// withStore calls fn with the network's reservations where there are any, and
// with none, and nothing on disk, where the network was never used.
func withStore(c *config, network string, fn func(*store) error) error {
	s, err := openExisting(c.IPAM.dataDir(), network)
	if err != nil {
		return err
	}
	defer s.close()
	return fn(s)
}

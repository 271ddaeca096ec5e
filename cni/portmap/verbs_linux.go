package portmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
)

func add(_ context.Context, r *cni.Request, c *Config) (*cni.Result, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if r.PrevResult == nil {
		return nil, cni.Errorf(cni.CodeConfig, "portmap needs the result of the plugin that made the interface (prevResult)")
	}
	elements, err := c.elements(r)
	if err != nil || len(elements) == 0 {
		return nil, err
	}
	rules := table(c)
	if err := findConflict(rules, elements); err != nil {
		return nil, err
	}
	owner := nft.Owner(r.Network, r.Attachment.String())
	r.Undo("port mappings", func(context.Context) error { return remove(c, owner) })
	if err := rules.Add(elements...); errors.Is(err, unix.EEXIST) {
		return nil, cni.Errorf(cni.CodeExists, "a host port was taken by another container just now: %w", err)
	} else if err != nil {
		return nil, err
	}
	return nil, enableForwarding(elements)
}

// elements returns what the attachment's port mappings come to.
func (c *Config) elements(r *cni.Request) ([]nft.Element, error) {
	forwards, err := c.forwards(r.PrevResult)
	if err != nil {
		return nil, err
	}
	owner := nft.Owner(r.Network, r.Attachment.String())
	var out []nft.Element
	near := map[netip.Addr]bool{}
	for _, f := range forwards {
		out = append(out, f.element(owner))
		if near[f.container] {
			continue
		}
		near[f.container] = true
		for _, ip := range r.PrevResult.IPs {
			if a, _ := netip.AddrFromSlice(ip.Address.IP); a.Unmap() == f.container {
				bits, _ := ip.Address.Mask.Size()
				out = append(out, nearElement(netip.PrefixFrom(f.container, bits), f.container, owner))
			}
		}
	}
	return out, nil
}

// findConflict refuses host ports that another attachment has. A mapping of every
// address and one of a single address share their port.
func findConflict(rules *nft.Ruleset, wanted []nft.Element) error {
	have, err := rules.Elements()
	if err != nil {
		return err
	}
	for _, w := range wanted {
		for _, h := range have {
			if h.Owner != w.Owner && len(w.Value) > 0 && overlap(w, h) {
				return cni.Errorf(cni.CodeExists, "host port %d is forwarded to %q already", hostPort(w), h.Owner)
			}
		}
	}
	return nil
}

// overlap compares elements of the port maps: protocol, port and, where both
// name one, the address.
func overlap(a, b nft.Element) bool {
	if len(a.Value) == 0 || len(a.Value) != len(b.Value) {
		return false // one of them is no port, or of the other family
	}
	if len(a.Key) == len(b.Key) {
		return bytes.Equal(a.Key, b.Key)
	}
	return a.Key[0] == b.Key[0] && hostPort(a) == hostPort(b)
}

func hostPort(e nft.Element) int {
	tail := e.Key[len(e.Key)-4:]
	return int(tail[0])<<8 | int(tail[1])
}

func remove(c *Config, owner string) error {
	return table(c).Remove(func(o string) bool { return o == owner })
}

func del(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		r.Log.Warn("removing port mappings of an invalid configuration", "err", err)
	}
	return remove(c, nft.Owner(r.Network, r.Attachment.String()))
}

func check(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	wanted, err := c.elements(r)
	if err != nil || len(wanted) == 0 {
		return err
	}
	rules := table(c)
	if err := rules.Verify(); err != nil {
		return cni.Errorf(cni.CodeNotAsExpected, "port mappings: %w", err)
	}
	have, err := rules.Elements()
	if err != nil {
		return err
	}
	for _, w := range wanted {
		found := len(w.Value) == 0 // ranges come back from the kernel in pieces
		for _, h := range have {
			found = found || h.Set == w.Set && h.Owner == w.Owner && bytes.Equal(h.Key, w.Key) && bytes.Equal(h.Value, w.Value)
		}
		if !found {
			return cni.Errorf(cni.CodeNotAsExpected, "host port %d is not forwarded", hostPort(w))
		}
	}
	return nil
}

func gc(_ context.Context, r *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, a := range r.Valid {
		keep[nft.Owner(r.Network, a.String())] = true
	}
	return table(c).Remove(func(owner string) bool { return nft.OfNetwork(owner, r.Network) && !keep[owner] })
}

func status(_ context.Context, _ *cni.Request, c *Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	return nft.Available()
}

// Teardown removes the nftables table of the configuration with every mapping in
// it, for an owner who knows that no container uses it any more. It succeeds
// when there is none.
func Teardown(_ context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	return nft.Delete(c.NFTTable)
}

// enableForwarding switches the host's forwarding on for the families in use.
func enableForwarding(elements []nft.Element) error {
	for _, e := range elements {
		name := "/proc/sys/net/ipv4/ip_forward"
		if len(e.Value) > 8 {
			name = "/proc/sys/net/ipv6/conf/all/forwarding"
		}
		if old, err := os.ReadFile(name); err == nil && string(old) == "1\n" {
			continue
		}
		if err := os.WriteFile(name, []byte("1"), 0); err != nil {
			return fmt.Errorf("switching forwarding on: %w", err)
		}
	}
	return nil
}

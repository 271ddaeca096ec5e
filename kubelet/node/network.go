package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// Network configures the node's own Pod network on the host. Two nodes on one host need
// different values in every field.
type Network struct {
	// Bridge is the Linux bridge's name, at most 15 bytes.
	Bridge string `json:"bridge"`
	// Subnet is the Pods' IPv4 network; its first address is the gateway.
	Subnet string `json:"subnet"`
	// Table is the nftables table with the node's masquerade rules. The table of its
	// port rules is named after it.
	Table string `json:"table"`
}

func (n Network) portTable() string { return n.Table + "-ports" }

// record is what a node remembers between starts.
type record struct {
	Version int     `json:"version"`
	Network Network `json:"network"`
}

const recordVersion = 1

// networkOf returns the network of the node at root: the one recorded there at an
// earlier start, or one with names derived from the root and a subnet that does not
// overlap any address or route of the host. A new choice is recorded before it is used.
func networkOf(root string) (Network, error) {
	path := filepath.Join(root, "node.json")
	raw, err := os.ReadFile(path)
	if err == nil {
		return parseRecord(path, raw)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return Network{}, err
	}
	n, err := chooseNetwork(root)
	if err != nil {
		return Network{}, err
	}
	raw, err = json.Marshal(record{Version: recordVersion, Network: n})
	if err != nil {
		return Network{}, err
	}
	return n, atomicfile.Write(path, raw, 0o600)
}

func parseRecord(path string, raw []byte) (Network, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Network{}, fmt.Errorf("reading %q: %w", path, err)
	}
	if r.Version != recordVersion {
		return Network{}, fault.FailedPrecondition.Errorf("reading %q: it has version %d and this nodekit writes %d: use the nodekit that wrote it",
			path, r.Version, recordVersion)
	}
	return r.Network, nil
}

// deriveID returns an ID that distinguishes the names of the node at root from those of
// other nodes on this machine.
func deriveID(root string) string {
	sum := sha256.Sum256([]byte(root))
	return hex.EncodeToString(sum[:4])
}

func chooseNetwork(root string) (Network, error) {
	sum := sha256.Sum256([]byte(root))
	id := deriveID(root)
	used, err := usedPrefixes()
	if err != nil {
		return Network{}, err
	}
	subnet, err := freeSubnet(sum, used)
	if err != nil {
		return Network{}, err
	}
	return Network{Bridge: "nk-" + id, Subnet: subnet.String(), Table: "nodekit-" + id}, nil
}

// freeSubnet returns a /24 of 10.128.0.0/9 that overlaps none of used. seed determines
// where the search begins, so that two nodes that start at the same time do not choose
// the same one.
func freeSubnet(seed [32]byte, used []netip.Prefix) (netip.Prefix, error) {
	const count = 1 << 15
	start := int(seed[4])<<8 | int(seed[5])
	for i := range count {
		n := (start + i) % count
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + n>>8), byte(n), 0}), 24)
		if !overlapsAny(p, used) {
			return p, nil
		}
	}
	return netip.Prefix{}, fault.Exhausted.Errorf("choosing a Pod subnet: the host's routes cover all of 10.128.0.0/9: name another one with --subnet")
}

func overlapsAny(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

// usedPrefixes returns the IPv4 networks that the host has routes to, except the
// default route.
func usedPrefixes() ([]netip.Prefix, error) {
	routes, err := redump.List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("reading the host's routes: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if ok && ones > 0 {
			used = append(used, netip.PrefixFrom(addr, ones))
		}
	}
	return used, nil
}

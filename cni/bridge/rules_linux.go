package bridge

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// Sets and maps of the table of family inet: the addresses whose packets are
// masqueraded, interfaces that lead to containers besides the bridge, and the
// index from (host's end, number) to the address that it has an element for.
const (
	masq4 = "masquerade4"
	masq6 = "masquerade6"
	near  = "near"
	index = "index"
)

// Sets and maps of the table of family bridge: the ports that are watched, with
// the address they may use, and the same as pairs.
const (
	watched = "watched"
	allowed = "allowed"
)

// maxIndexed is how many addresses an attachment can have in the index.
const maxIndexed = 16

// masquerading describes the bridge's table of family inet.
func masquerading(c *Config) *nft.Ruleset {
	rule := func(family byte, set string, multicast net.IPNet) []expr.Any {
		return slices.Concat(
			nft.Protocol(family),
			nft.SourceIn(family, set),
			nft.NotTo(family, multicast.IP, multicast.Mask),
			nft.LeavesBy(c.Bridge, false),
			nft.LeavesNotBy(near),
			nft.Masquerade(),
		)
	}
	return &nft.Ruleset{
		Table: c.NFTTable,
		Sets: []nft.Set{
			{Name: masq4, Key: []nftables.SetDatatype{nftables.TypeIPAddr}},
			{Name: masq6, Key: []nftables.SetDatatype{nftables.TypeIP6Addr}},
			{Name: near, Key: []nftables.SetDatatype{nftables.TypeIFName}},
			{Name: index, Key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeMark}, Value: []nftables.SetDatatype{nftables.TypeIP6Addr}},
		},
		Chains: []nft.Chain{{
			Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
			Rules: [][]expr.Any{
				rule(unix.NFPROTO_IPV4, masq4, net.IPNet{IP: net.IP{224, 0, 0, 0}, Mask: net.CIDRMask(4, 32)}),
				rule(unix.NFPROTO_IPV6, masq6, net.IPNet{IP: append(net.IP{0xff}, make([]byte, 15)...), Mask: net.CIDRMask(8, 128)}),
			},
		}},
	}
}

// spoofChecking describes the bridge's table of family bridge: a frame of a
// watched port passes when port and source address are allowed together.
func spoofChecking(c *Config) *nft.Ruleset {
	const early = -300 // before whatever looks at frames by their addresses
	name, mac := nftables.TypeIFName, nftables.TypeEtherAddr
	return &nft.Ruleset{
		Table: c.NFTTable, Bridge: true,
		Sets: []nft.Set{
			{Name: watched, Key: []nftables.SetDatatype{name}, Value: []nftables.SetDatatype{mac}},
			{Name: allowed, Key: []nftables.SetDatatype{name, mac}},
		},
		Chains: []nft.Chain{{
			Name: "prerouting", Type: nftables.ChainTypeFilter,
			Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(early),
			Rules: [][]expr.Any{
				slices.Concat(nft.PortAndSourceIn(allowed), nft.Accept()),
				slices.Concat(nft.PortIn(watched), nft.Drop()),
			},
		}},
	}
}

// groups returns the elements that an attachment with the addresses needs.
func groups(c *Config, id identity, ips []netip.Prefix, mac net.HardwareAddr) (out []nft.Group) {
	if c.IPMasq && len(ips) > 0 {
		out = append(out, nft.Group{Rules: masquerading(c), Elements: masqElements(id, ips)})
	}
	if c.MACSpoofCheck {
		out = append(out, nft.Group{Rules: spoofChecking(c), Elements: spoofElements(id, mac)})
	}
	return out
}

func masqElements(id identity, ips []netip.Prefix) (out []nft.Element) {
	for i, ip := range ips {
		out = append(out, masqElement(id.owner, ip.Addr()), nft.Element{
			Set: index, Owner: id.owner, Key: indexKey(id, i), Value: binary16(ip.Addr()),
		})
	}
	return out
}

func masqElement(owner string, ip netip.Addr) nft.Element {
	set := masq6
	if ip.Is4() {
		set = masq4
	}
	return nft.Element{Set: set, Key: ip.AsSlice(), Owner: owner}
}

func binary16(ip netip.Addr) []byte {
	b := ip.As16()
	return b[:]
}

func indexKey(id identity, n int) []byte {
	return binary.NativeEndian.AppendUint32(nft.IfName(id.host), uint32(n))
}

func spoofElements(id identity, mac net.HardwareAddr) []nft.Element {
	port := nft.IfName(id.host)
	return []nft.Element{
		{Set: watched, Key: port, Value: mac, Owner: id.owner},
		{Set: allowed, Key: append(slices.Clone(port), nft.Word(mac...)...), Owner: id.owner},
	}
}

// gatewayElement makes packets to the VLAN's containers stay as they are.
func gatewayElement(c *Config) nft.Group {
	return nft.Group{Rules: masquerading(c), Elements: []nft.Element{{Set: near, Key: nft.IfName(c.gatewayName())}}}
}

// removeRules removes the attachment's elements. What has another owner by now
// stays: the index is removed in the same transaction, so whoever was second
// removes nothing.
func removeRules(rules *nft.Conn, c *Config, id identity) error {
	return errors.Join(removeMasquerade(rules, c, id), removeSpoofCheck(rules, c, id))
}

func removeMasquerade(rules *nft.Conn, c *Config, id identity) error {
	rs := masquerading(c)
	var gone []nft.Element
	for first := 0; first < maxIndexed; first += 2 { // one request for the usual one or two
		entries, err := rules.Get(rs, index, indexKey(id, first), indexKey(id, first+1))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry == nil {
				continue
			}
			gone = append(gone, *entry)
			e, err := ownElement(rules, rs, id, entry.Value)
			if err != nil {
				return err
			}
			gone = append(gone, e...)
		}
		if entries[1] == nil {
			break
		}
	}
	return removeElements(rules, rs, gone)
}

// ownElement returns the element for the address if it is the attachment's.
func ownElement(rules *nft.Conn, rs *nft.Ruleset, id identity, address []byte) ([]nft.Element, error) {
	ip, ok := netip.AddrFromSlice(address)
	if !ok {
		return nil, nil
	}
	want := masqElement(id.owner, ip.Unmap())
	have, err := rules.Get(rs, want.Set, want.Key)
	if err != nil || have[0] == nil || have[0].Owner != id.owner {
		return nil, err
	}
	return []nft.Element{want}, nil
}

func removeSpoofCheck(rules *nft.Conn, c *Config, id identity) error {
	rs := spoofChecking(c)
	have, err := rules.Get(rs, watched, nft.IfName(id.host))
	if err != nil || have[0] == nil {
		return err
	}
	return removeElements(rules, rs, spoofElements(id, have[0].Value[:6]))
}

func removeElements(rules *nft.Conn, rs *nft.Ruleset, gone []nft.Element) error {
	if len(gone) == 0 {
		return nil
	}
	err := rules.Remove(nft.Group{Rules: rs, Elements: gone})
	if errors.Is(err, fault.NotFound) { // another DEL was faster, or somebody flushed a set
		return rules.RemoveOwned(rs, func(owner string) bool { return owner == gone[0].Owner })
	}
	return err
}

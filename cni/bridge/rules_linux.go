package bridge

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// Sets and maps of the inet table: the addresses whose packets are masqueraded, those
// of them in a VLAN with a gateway, the interfaces besides the bridge that lead to
// containers, and the index from (host end, number) to the address that has an
// element.
const (
	masq4 = "masquerade4"
	masq6 = "masquerade6"
	vlan4 = "vlan4"
	vlan6 = "vlan6"
	near  = "near"
	index = "byport"
)

// Sets and maps of the bridge table: the checked ports, the allowed pairs of port and
// source address, and the map from port to address, which no rule uses, but DEL does.
const (
	watched   = "watched"
	allowed   = "allowed"
	addressOf = "address"
)

// Digests of the descriptions, without the bridge's name: see nft.Ruleset.Tag.
const (
	masqueradingDigest  = "ccd5a47572a034ea"
	spoofCheckingDigest = "174303aed8f0f81e"
)

// masquerading describes the bridge's inet table. A long-running process builds each
// description once.
func masquerading(c *Config) *nft.Ruleset {
	key := described{c.NFTTable, c.Bridge}
	if rs, ok := descriptions.Load(key); ok {
		return rs.(*nft.Ruleset)
	}
	rs, _ := descriptions.LoadOrStore(key, describeMasquerading(c))
	return rs.(*nft.Ruleset)
}

// described is the key of a description: the names that it contains.
type described struct{ table, bridge string }

var descriptions sync.Map // of *nft.Ruleset by described

func describeMasquerading(c *Config) *nft.Ruleset {
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
		Table: c.NFTTable, Tag: masqueradingDigest + " " + c.Bridge,
		Sets: []nft.Set{
			{Name: masq4, Key: []nftables.SetDatatype{nftables.TypeIPAddr}},
			{Name: masq6, Key: []nftables.SetDatatype{nftables.TypeIP6Addr}},
			{Name: vlan4, Key: []nftables.SetDatatype{nftables.TypeIPAddr}},
			{Name: vlan6, Key: []nftables.SetDatatype{nftables.TypeIP6Addr}},
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
		}, {
			Name: "prerouting", Type: nftables.ChainTypeFilter,
			Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
			Rules: slices.Concat(untrackedOnTheBridge(c, unix.NFPROTO_IPV4, vlan4), untrackedOnTheBridge(c, unix.NFPROTO_IPV6, vlan6)),
		}},
	}
}

// untrackedOnTheBridge returns the rules for packets on their way to the gateway of a
// VLAN, or back. With br_netfilter they pass netfilter already on the bridge, and a
// connection tracked there is no longer masqueraded when it is routed. Traffic
// between containers of the VLANs remains tracked: a container's replies to a service
// may need it.
func untrackedOnTheBridge(c *Config, family byte, set string) [][]expr.Any {
	bridged := slices.Concat(nft.EntersBy(c.Bridge), nft.Protocol(family))
	return [][]expr.Any{
		slices.Concat(bridged, nft.SourceIn(family, set), nft.DestinationIn(family, set, false), nft.Untracked()),
		slices.Concat(bridged, nft.DestinationIn(family, set, true), nft.SourceNotIn(family, set), nft.Untracked()),
	}
}

// spoofChecking describes the bridge's table of the bridge family: a frame from a
// checked port passes if the pair of port and source address is allowed.
func spoofChecking(c *Config) *nft.Ruleset {
	const early = -300 // before anything that looks at the addresses of frames
	name, mac := nftables.TypeIFName, nftables.TypeEtherAddr
	return &nft.Ruleset{
		Table: c.NFTTable, Bridge: true, Tag: spoofCheckingDigest,
		Sets: []nft.Set{
			{Name: watched, Key: []nftables.SetDatatype{name}},
			{Name: allowed, Key: []nftables.SetDatatype{name, mac}},
			{Name: addressOf, Key: []nftables.SetDatatype{name}, Value: []nftables.SetDatatype{mac}},
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

// groups returns the elements needed by an attachment with these addresses.
func groups(c *Config, id identity, ips []netip.Prefix, mac net.HardwareAddr) (out []nft.Group) {
	if c.IPMasq && len(ips) > 0 {
		out = append(out, nft.Group{Rules: masquerading(c), Elements: masqElements(c, id, ips)})
	}
	if c.MACSpoofCheck {
		out = append(out, nft.Group{Rules: spoofChecking(c), Elements: spoofElements(id, mac)})
	}
	return out
}

func masqElements(c *Config, id identity, ips []netip.Prefix) (out []nft.Element) {
	for i, ip := range ips {
		if c.VLAN != 0 && c.IsGateway {
			e := masqElement(id.owner, ip.Addr())
			e.Set = vlanSet(e.Set)
			out = append(out, e)
		}
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

// vlanSet returns the VLAN set of the same address family.
func vlanSet(masq string) string {
	if masq == masq4 {
		return vlan4
	}
	return vlan6
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
		{Set: watched, Key: port, Owner: id.owner},
		{Set: addressOf, Key: port, Value: mac, Owner: id.owner},
		{Set: allowed, Key: append(slices.Clone(port), nft.Word(mac...)...), Owner: id.owner},
	}
}

// gatewayElement exempts packets to the VLAN's containers from masquerading.
func gatewayElement(c *Config) nft.Group {
	return nft.Group{Rules: masquerading(c), Elements: []nft.Element{{Set: near, Key: nft.IfName(c.gatewayName())}}}
}

// removeRules removes the attachment's elements. Elements that have another owner by
// now stay: the index is removed in the same transaction, so the second of two DELs
// removes nothing.
func removeRules(rules *nft.Conn, c *Config, id identity) error {
	return errors.Join(removeMasquerade(rules, c, id), removeSpoofCheck(rules, c, id))
}

func removeMasquerade(rules *nft.Conn, c *Config, id identity) error {
	rs := masquerading(c)
	var gone []nft.Element
	for first := 0; ; first += 2 { // one request suffices for the usual one or two
		entries, err := rules.Get(rs, index, indexKey(id, first), indexKey(id, first+1))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry == nil {
				continue
			}
			gone = append(gone, *entry)
			e, err := ownElements(rules, rs, id, entry.Value)
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

// ownElements returns the elements for the address that belong to the attachment.
func ownElements(rules *nft.Conn, rs *nft.Ruleset, id identity, address []byte) (out []nft.Element, err error) {
	ip, ok := netip.AddrFromSlice(address)
	if !ok {
		return nil, nil
	}
	want := masqElement(id.owner, ip.Unmap())
	for _, set := range []string{want.Set, vlanSet(want.Set)} {
		have, err := rules.Get(rs, set, want.Key)
		if err != nil {
			return nil, err
		}
		if have[0] != nil && have[0].Owner == id.owner {
			out = append(out, nft.Element{Set: set, Key: want.Key, Owner: id.owner})
		}
	}
	return out, nil
}

func removeSpoofCheck(rules *nft.Conn, c *Config, id identity) error {
	rs := spoofChecking(c)
	have, err := rules.Get(rs, addressOf, nft.IfName(id.host))
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

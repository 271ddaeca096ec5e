package portmap

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nft"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	proto    byte
	addr     nftables.SetDatatype
	loopback net.IPNet
	// Names of the maps from ports of every address, and of one, and of the set of
	// (source subnet, container) whose packets would be answered behind our back.
	any, one, near string
}

func families() []family {
	return []family{
		{unix.NFPROTO_IPV4, nftables.TypeIPAddr, net.IPNet{IP: net.IP{127, 0, 0, 0}, Mask: net.CIDRMask(8, 32)}, "any4", "one4", "near4"},
		{unix.NFPROTO_IPV6, nftables.TypeIP6Addr, net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}, "any6", "one6", "near6"},
	}
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families()[0]
	}
	return families()[1]
}

// table describes the nftables table of the port mappings.
func table(c *Config) *nft.Ruleset {
	out := &nft.Ruleset{Table: c.NFTTable}
	var in, local, back [][]expr.Any
	for _, f := range families() {
		proto, port := nftables.TypeInetProto, nftables.TypeInetService
		target := []nftables.SetDatatype{f.addr, port}
		out.Sets = append(out.Sets,
			nft.Set{Name: f.any, Key: []nftables.SetDatatype{proto, port}, Value: target},
			nft.Set{Name: f.one, Key: []nftables.SetDatatype{proto, f.addr, port}, Value: target},
			nft.Set{Name: f.near, Key: []nftables.SetDatatype{f.addr, f.addr}, Interval: true},
		)
		toHost := slices.Concat(nft.Protocol(f.proto), nft.ToLocal(), nft.NotTo(f.proto, f.loopback.IP, f.loopback.Mask))
		for _, rules := range []*[][]expr.Any{&in, &local} {
			*rules = append(*rules,
				slices.Concat(toHost, nft.Forward(f.proto, f.one, true)),
				slices.Concat(toHost, nft.Forward(f.proto, f.any, false)),
			)
		}
		back = append(back, slices.Concat(nft.Protocol(f.proto), nft.Forwarded(), nft.FromTo(f.proto, f.near), nft.Masquerade()))
	}
	out.Chains = []nft.Chain{
		{Name: "prerouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest, Rules: in},
		{Name: "output", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Rules: local},
		{Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Rules: back},
	}
	return out
}

// element returns the map element of a forwarded port.
func (f forward) element(owner string) nft.Element {
	fam := familyOf(f.container)
	e := nft.Element{
		Set: fam.any, Owner: owner, Key: nft.Word(f.protocol),
		Value: append(f.container.AsSlice(), port(f.to)...),
	}
	if f.host.IsValid() {
		e.Set = fam.one
		e.Key = append(e.Key, f.host.AsSlice()...)
	}
	e.Key = append(e.Key, port(f.from)...)
	return e
}

// nearElement returns the element for packets that come from the container's
// own subnet, which the container would answer without passing the host.
func nearElement(subnet netip.Prefix, container netip.Addr, owner string) nft.Element {
	first, last := subnet.Masked().Addr().AsSlice(), subnet.Masked().Addr().AsSlice()
	for bit := subnet.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	return nft.Element{
		Set: familyOf(container).near, Owner: owner,
		Key: append(first, container.AsSlice()...), KeyEnd: append(last, container.AsSlice()...),
	}
}

func port(n uint16) []byte {
	return nft.Word(binary.BigEndian.AppendUint16(nil, n)...)
}

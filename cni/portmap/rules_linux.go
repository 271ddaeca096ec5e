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
	proto byte
	addr  nftables.SetDatatype
	// loopback are the host's own addresses, which packets from elsewhere never
	// have.
	loopback net.IPNet
	// Names of the maps from ports of every address, and of one, and of the set of
	// (source subnet, container, protocol, host port) whose connections would be
	// answered behind our back.
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

const (
	// quiet4 has the (protocol, port) of mappings that 127.0.0.1 is kept out of.
	quiet4 = "quiet4"
	// localnet has the interfaces that route_localnet was switched on for.
	localnet = "localnet"
)

// table describes the nftables table of the port mappings.
func table(c *Config) *nft.Ruleset {
	out := &nft.Ruleset{Table: c.NFTTable}
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	for _, f := range families() {
		target := []nftables.SetDatatype{f.addr, port}
		out.Sets = append(out.Sets,
			nft.Set{Name: f.any, Key: []nftables.SetDatatype{proto, port}, Value: target},
			nft.Set{Name: f.one, Key: []nftables.SetDatatype{proto, f.addr, port}, Value: target},
			nft.Set{Name: f.near, Key: []nftables.SetDatatype{f.addr, f.addr, proto, port}, Interval: true},
		)
	}
	out.Sets = append(out.Sets,
		nft.Set{Name: quiet4, Key: []nftables.SetDatatype{proto, port}},
		nft.Set{Name: localnet, Key: []nftables.SetDatatype{nftables.TypeIFName}},
	)
	out.Chains = []nft.Chain{
		// Before connection tracking, which gives answers the address 127.0.0.1 again.
		{Name: "guard", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw, Rules: guardRules()},
		{Name: "prerouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest, Rules: arrivalRules()},
		{Name: "output", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Rules: hostRules()},
		{Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Rules: answerRules()},
	}
	return out
}

// guardRules drop packets from or to the host's own addresses that come by an
// interface that would let them in.
func guardRules() [][]expr.Any {
	f := families()[0]
	came := slices.Concat(nft.Protocol(f.proto), nft.CameByOneOf(localnet))
	return [][]expr.Any{
		slices.Concat(came, nft.To(f.proto, f.loopback.IP, f.loopback.Mask), nft.Drop()),
		slices.Concat(came, nft.From(f.proto, f.loopback.IP, f.loopback.Mask), nft.Drop()),
	}
}

// arrivalRules translate what comes to the host.
func arrivalRules() (out [][]expr.Any) {
	for _, f := range families() {
		toHost := slices.Concat(nft.Protocol(f.proto), nft.ToLocal(), nft.NotTo(f.proto, f.loopback.IP, f.loopback.Mask))
		out = append(out,
			slices.Concat(toHost, nft.Forward(f.proto, f.one, true)),
			slices.Concat(toHost, nft.Forward(f.proto, f.any, false)),
		)
	}
	return out
}

// hostRules translate what the host sends to itself: to 127.0.0.1 where the
// mapping allows it, and to others of 127.0.0.0/8 where it names one.
func hostRules() [][]expr.Any {
	v4, v6 := families()[0], families()[1]
	localhost := net.IPNet{IP: net.IP{127, 0, 0, 1}, Mask: net.CIDRMask(32, 32)}
	here4 := slices.Concat(nft.Protocol(v4.proto), nft.ToLocal())
	here6 := slices.Concat(nft.Protocol(v6.proto), nft.ToLocal(), nft.NotTo(v6.proto, v6.loopback.IP, v6.loopback.Mask))
	return [][]expr.Any{
		slices.Concat(here4, nft.Forward(v4.proto, v4.one, true)),
		slices.Concat(here4, nft.To(v4.proto, localhost.IP, localhost.Mask), nft.ToPortIn(quiet4), nft.Accept()),
		slices.Concat(here4, nft.To(v4.proto, v4.loopback.IP, v4.loopback.Mask), nft.NotTo(v4.proto, localhost.IP, localhost.Mask), nft.Accept()),
		slices.Concat(here4, nft.Forward(v4.proto, v4.any, false)),
		slices.Concat(here6, nft.Forward(v6.proto, v6.one, true)),
		slices.Concat(here6, nft.Forward(v6.proto, v6.any, false)),
	}
}

// answerRules masquerade what would not be answered through the host. Only
// connections that wanted to go to a mapped port are looked at: others may
// translate addresses too, and containers are known by theirs.
func answerRules() (out [][]expr.Any) {
	for _, f := range families() {
		out = append(out, slices.Concat(nft.Protocol(f.proto), nft.Forwarded(), nft.FromToAsked(f.proto, f.near), nft.Masquerade()))
	}
	v4 := families()[0]
	return append(out, slices.Concat(nft.Protocol(v4.proto), nft.Forwarded(),
		nft.From(v4.proto, v4.loopback.IP, v4.loopback.Mask), nft.LeavesBy("lo", false), nft.Masquerade()))
}

// elements returns what the forwards come to in the table. Mappings of one port
// of several addresses have one element of near together.
func (c *Config) elements(forwards []forward, owner string) (out []nft.Element) {
	near := map[string]bool{}
	for _, f := range forwards {
		out = append(out, f.element(owner))
		if !*c.SNAT && f.container.Addr().Is4() && !f.single() {
			out = append(out, nft.Element{Set: quiet4, Owner: owner, Key: append(nft.Word(f.protocol), portWord(f.from)...)})
		}
		if !*c.SNAT {
			continue
		}
		if e := f.nearElement(c.MasqAll, owner); !near[string(e.Key)] {
			near[string(e.Key)] = true
			out = append(out, e)
		}
	}
	return out
}

// element returns the map element of a forwarded port.
func (f forward) element(owner string) nft.Element {
	fam := familyOf(f.container.Addr())
	e := nft.Element{
		Set: fam.any, Owner: owner, Key: nft.Word(f.protocol),
		Value: append(f.container.Addr().AsSlice(), portWord(f.to)...),
	}
	if f.single() {
		e.Set = fam.one
		e.Key = append(e.Key, f.host.AsSlice()...)
	}
	e.Key = append(e.Key, portWord(f.from)...)
	return e
}

// nearElement returns the element for connections that come from the container's
// subnet, or from everywhere.
func (f forward) nearElement(everywhere bool, owner string) nft.Element {
	container, subnet := f.container.Addr(), f.container.Masked()
	if everywhere {
		subnet = netip.PrefixFrom(container, 0).Masked()
	}
	first, last := subnet.Addr().AsSlice(), subnet.Addr().AsSlice()
	for bit := subnet.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	rest := slices.Concat(container.AsSlice(), nft.Word(f.protocol), portWord(f.from))
	return nft.Element{
		Set: familyOf(container).near, Owner: owner,
		Key: append(first, rest...), KeyEnd: append(last, rest...),
	}
}

func portWord(n uint16) []byte {
	return nft.Word(binary.BigEndian.AppendUint16(nil, n)...)
}

// isPort reports whether the element is of one of the port maps.
func isPort(e nft.Element) bool { return len(e.Value) > 0 }

// hostPort, protocolOf and targetOf read elements of the port maps.
func hostPort(e nft.Element) uint16  { return binary.BigEndian.Uint16(e.Key[len(e.Key)-4:]) }
func protocolOf(e nft.Element) byte { return e.Key[0] }

func targetOf(e nft.Element) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(e.Value[:len(e.Value)-4])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(e.Value[len(e.Value)-4:]))
}

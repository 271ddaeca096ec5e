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
	// loopback are the host's own addresses, which packets from elsewhere never have.
	loopback net.IPNet
	// Names of the maps for ports of every address and of a single address; of the
	// sets of (protocol, container port, container) whose connections are masqueraded
	// if they leave by the interface by which they came, and always; and of the set
	// of (container, container) for connections of a container to itself.
	any, one, near, wide, self string
}

func families() []family {
	return []family{
		{unix.NFPROTO_IPV4, nftables.TypeIPAddr, net.IPNet{IP: net.IP{127, 0, 0, 0}, Mask: net.CIDRMask(8, 32)}, "any4", "one4", "near4", "wide4", "self4"},
		{unix.NFPROTO_IPV6, nftables.TypeIP6Addr, net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}, "any6", "one6", "near6", "wide6", "self6"},
	}
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families()[0]
	}
	return families()[1]
}

const (
	// quiet4 has the (protocol, port) of mappings that do not apply to 127.0.0.1.
	quiet4 = "quiet4"
	// localnet has the interfaces for which route_localnet was enabled.
	localnet = "localnet"
	// back has the interfaces towards containers, each as both input and output.
	back = "back"
	// owners has the summary of each attachment's elements, keyed by the digest of
	// its name. No rule uses it.
	owners = "owners"
)

// digest is that of the description: see nft.Ruleset.Tag.
const digest = "c430b6279df6ad3d"

// table describes the nftables table of the port mappings.
func table(c *Config) *nft.Ruleset {
	out := &nft.Ruleset{Table: c.NFTTable, Tag: digest}
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	for _, f := range families() {
		target := []nftables.SetDatatype{f.addr, port}
		out.Sets = append(out.Sets,
			nft.Set{Name: f.any, Key: []nftables.SetDatatype{proto, port}, Value: target},
			nft.Set{Name: f.one, Key: []nftables.SetDatatype{proto, f.addr, port}, Value: target},
			nft.Set{Name: f.near, Key: []nftables.SetDatatype{proto, port, f.addr}},
			nft.Set{Name: f.wide, Key: []nftables.SetDatatype{proto, port, f.addr}},
			nft.Set{Name: f.self, Key: []nftables.SetDatatype{f.addr, f.addr}},
		)
	}
	out.Sets = append(out.Sets,
		nft.Set{Name: quiet4, Key: []nftables.SetDatatype{proto, port}},
		nft.Set{Name: localnet, Key: []nftables.SetDatatype{nftables.TypeIFName}},
		nft.Set{Name: back, Key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIFName}},
		// These types have the length of the digests.
		nft.Set{Name: owners, Key: []nftables.SetDatatype{nftables.TypeIP6Addr}, Value: []nftables.SetDatatype{nftables.TypeIP6Addr}},
	)
	out.Chains = []nft.Chain{
		// Before connection tracking, which restores the address 127.0.0.1 in
		// replies.
		{Name: "guard", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw, Rules: guardRules()},
		{Name: "prerouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest, Rules: arrivalRules()},
		{Name: "output", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Rules: hostRules()},
		{Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Rules: answerRules()},
	}
	return out
}

// guardRules drop packets from or to loopback addresses that arrive on an interface
// with route_localnet.
func guardRules() [][]expr.Any {
	f := families()[0]
	came := slices.Concat(nft.Protocol(f.proto), nft.CameByOneOf(localnet))
	return [][]expr.Any{
		slices.Concat(came, nft.To(f.proto, f.loopback.IP, f.loopback.Mask), nft.Drop()),
		slices.Concat(came, nft.From(f.proto, f.loopback.IP, f.loopback.Mask), nft.Drop()),
	}
}

// arrivalRules translate packets that arrive at the host.
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

// hostRules translate what the host sends to itself: to 127.0.0.1 if the mapping
// allows it, and to other addresses of 127.0.0.0/8 if the mapping names one.
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

// answerRules masquerade connections whose replies would bypass the host. They
// consider only connections whose destination was translated, by whomever: what
// others translate to the same port of the same container needs the same, except for
// masqAll.
func answerRules() (out [][]expr.Any) {
	for _, f := range families() {
		forwarded := slices.Concat(nft.Protocol(f.proto), nft.Forwarded())
		out = append(out,
			slices.Concat(forwarded, nft.DeliveredIn(f.proto, f.wide), nft.Masquerade()),
			slices.Concat(forwarded, nft.DeliveredIn(f.proto, f.near), nft.ThroughIn(back), nft.Masquerade()),
			slices.Concat(forwarded, nft.FromTo(f.proto, f.self), nft.Masquerade()),
		)
	}
	v4 := families()[0]
	return append(out, slices.Concat(nft.Protocol(v4.proto), nft.Forwarded(),
		nft.From(v4.proto, v4.loopback.IP, v4.loopback.Mask), nft.LeavesBy("lo", false), nft.Masquerade()))
}

// elements returns the elements of the forwards that belong to the attachment.
// Mappings to one container port share the elements for masquerading.
func (c *Config) elements(forwards []forward, owner string) (out []nft.Element) {
	have := map[string]bool{}
	put := func(e nft.Element) {
		if place := e.Set + string(e.Key); !have[place] {
			have[place] = true
			e.Owner = owner
			out = append(out, e)
		}
	}
	for _, f := range forwards {
		put(f.element())
		fam, a := familyOf(f.container), f.container.AsSlice()
		server := slices.Concat(nft.Word(f.protocol), portWord(f.to), a)
		switch {
		case *c.SNAT && c.MasqAll:
			put(nft.Element{Set: fam.wide, Key: server})
		case *c.SNAT:
			put(nft.Element{Set: fam.near, Key: server})
			put(nft.Element{Set: fam.self, Key: append(a, a...)})
		case f.container.Is4() && !f.single():
			put(nft.Element{Set: quiet4, Key: append(nft.Word(f.protocol), portWord(f.from)...)})
		}
	}
	return out
}

// element returns the map element of a forwarded port.
func (f forward) element() nft.Element {
	fam := familyOf(f.container)
	e := nft.Element{
		Set: fam.any, Key: nft.Word(f.protocol),
		Value: append(f.container.AsSlice(), portWord(f.to)...),
	}
	if f.single() {
		e.Set = fam.one
		e.Key = append(e.Key, f.host.AsSlice()...)
	}
	e.Key = append(e.Key, portWord(f.from)...)
	return e
}

func portWord(n uint16) []byte {
	return nft.Word(binary.BigEndian.AppendUint16(nil, n)...)
}

// isPort reports whether the element is in one of the port maps.
func isPort(e nft.Element) bool { return len(e.Value) > 0 && e.Set != owners }

// hostPort, protocolOf and targetOf decode elements of the port maps.
func hostPort(e nft.Element) uint16 { return binary.BigEndian.Uint16(e.Key[len(e.Key)-4:]) }
func protocolOf(e nft.Element) byte { return e.Key[0] }

func targetOf(e nft.Element) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(e.Value[:len(e.Value)-4])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(e.Value[len(e.Value)-4:]))
}

package nft

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// reg is the first of the 16-byte registers, which single values use.
const reg = unix.NFT_REG_1

// Protocol matches the packet's network protocol in an inet table.
func Protocol(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{family}},
	}
}

// SourceIn matches packets whose source address is in the set. Precede it with
// Protocol.
func SourceIn(family byte, set string) []expr.Any { return addressIn(family, set, true, 12, 8) }

// NotTo matches packets whose destination is outside of the prefix, which must be
// masked. Precede it with Protocol.
func NotTo(family byte, prefix, mask []byte) []expr.Any {
	offset := uint32(16)
	if family == unix.NFPROTO_IPV6 {
		offset = 24
	}
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(prefix))},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(prefix)), Mask: mask, Xor: make([]byte, len(prefix))},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: prefix},
	}
}

// IfName returns an interface name in the form of set keys.
func IfName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// LeavesBy matches packets whose output interface is, or is not, the named one.
func LeavesBy(name string, is bool) []expr.Any {
	op := expr.CmpOpEq
	if !is {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg},
		&expr.Cmp{Op: op, Register: reg, Data: IfName(name)},
	}
}

// LeavesNotBy matches packets whose output interface is not in the set.
func LeavesNotBy(set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg},
		&expr.Lookup{SourceRegister: reg, SetName: set, Invert: true},
	}
}

// PortIn matches frames that entered by a port in the set.
func PortIn(ports string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
		&expr.Lookup{SourceRegister: reg, SetName: ports},
	}
}

// PortAndSourceIn matches frames whose pair of port and source MAC address is in the
// set.
func PortAndSourceIn(set string) []expr.Any {
	const source, size, nameWords = 6, 6, unix.IFNAMSIZ / 4
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: word0},
		&expr.Payload{DestRegister: word0 + nameWords, Base: expr.PayloadBaseLLHeader, Offset: source, Len: size},
		&expr.Lookup{SourceRegister: word0, SetName: set},
	}
}

// EntersBy matches packets whose input interface is the named one.
func EntersBy(name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: IfName(name)},
	}
}

// DestinationIn matches packets whose destination address is, or is not, in the set.
// Precede it with Protocol.
func DestinationIn(family byte, set string, is bool) []expr.Any {
	return addressIn(family, set, is, 16, 24)
}

// SourceNotIn matches packets whose source address is not in the set. Precede it with
// Protocol.
func SourceNotIn(family byte, set string) []expr.Any { return addressIn(family, set, false, 12, 8) }

func addressIn(family byte, set string, is bool, ipv4, ipv6 uint32) []expr.Any {
	offset, length := ipv4, uint32(4)
	if family == unix.NFPROTO_IPV6 {
		offset, length = ipv6, 16
	}
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: reg, SetName: set, Invert: !is},
	}
}

// Untracked exempts the packet from connection tracking.
func Untracked() []expr.Any { return []expr.Any{&expr.Notrack{}} }

// Accept ends the evaluation of the packet in the chain.
func Accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Drop drops the packet.
func Drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// ToLocal matches packets whose destination is an address of this host.
func ToLocal() []expr.Any {
	const rtnLocal = 2 // RTN_LOCAL of rtnetlink(7)
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(rtnLocal)},
	}
}

// FromTo matches packets whose pair of source and destination address is in the set.
// Precede it with Protocol.
func FromTo(family byte, set string) []expr.Any {
	source, destination, words := uint32(12), uint32(16), uint32(1)
	if family == unix.NFPROTO_IPV6 {
		source, destination, words = 8, 24, 4
	}
	return []expr.Any{
		&expr.Payload{DestRegister: word0, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: 4 * words},
		&expr.Payload{DestRegister: word0 + words, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 4 * words},
		&expr.Lookup{SourceRegister: word0, SetName: set},
	}
}

// word0 is the first of the sixteen 4-byte registers, which concatenations use;
// results of a map go to the registers from word8 on.
const (
	word0 = unix.NFT_REG32_00
	word8 = unix.NFT_REG32_08
)

// Forward translates the destination by a map from (protocol, port) or, with
// byAddress, from (protocol, address, port), to (address, port). Precede it with
// Protocol.
func Forward(family byte, table string, byAddress bool) []expr.Any {
	offset, words := uint32(16), uint32(1)
	if family == unix.NFPROTO_IPV6 {
		offset, words = 24, 4
	}
	next := uint32(word0)
	out := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next}}
	next++
	if byAddress {
		out = append(out, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4 * words})
		next += words
	}
	return append(out,
		&expr.Payload{DestRegister: next, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: word0, SetName: table, DestRegister: word8, IsDestRegSet: true},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: word8, RegProtoMin: word8 + words},
	)
}

// Forwarded matches packets of connections whose destination was translated.
func Forwarded() []expr.Any {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}
}

// Masquerade translates the source to the address of the output interface.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

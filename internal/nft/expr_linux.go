package nft

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Register 1 is the first of the 16-byte registers, which single values use.
const reg = unix.NFT_REG_1

// Protocol matches the packet's network protocol in an inet table.
func Protocol(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{family}},
	}
}

// SourceIn matches a source address in the set. Precede it with Protocol.
func SourceIn(family byte, set string) []expr.Any {
	offset, length := uint32(12), uint32(4)
	if family == unix.NFPROTO_IPV6 {
		offset, length = 8, 16
	}
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: reg, SetName: set},
	}
}

// NotTo matches a destination address outside of the prefix, which is given
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

// LeavesBy matches packets whose output interface is, or is not, the named one.
func LeavesBy(name string, is bool) []expr.Any {
	op := expr.CmpOpEq
	if !is {
		op = expr.CmpOpNeq
	}
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg},
		&expr.Cmp{Op: op, Register: reg, Data: padded},
	}
}

// ToLocal matches packets whose destination is an address of this host.
func ToLocal() []expr.Any {
	const rtnLocal = 2 // RTN_LOCAL of rtnetlink(7)
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(rtnLocal)},
	}
}

// Masquerade translates the source to the address of the output interface.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

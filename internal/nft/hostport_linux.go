package nft

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// side returns where an address is in the network header.
func side(family byte, destination bool) (offset, length uint32) {
	switch {
	case family == unix.NFPROTO_IPV6 && destination:
		return 24, 16
	case family == unix.NFPROTO_IPV6:
		return 8, 16
	case destination:
		return 16, 4
	}
	return 12, 4
}

// To matches packets whose destination is inside the prefix, which must be masked.
// Precede it with Protocol.
func To(family byte, prefix, mask []byte) []expr.Any { return within(family, true, prefix, mask) }

// From matches packets whose source is inside the prefix, which must be masked.
// Precede it with Protocol.
func From(family byte, prefix, mask []byte) []expr.Any { return within(family, false, prefix, mask) }

func within(family byte, destination bool, prefix, mask []byte) []expr.Any {
	offset, length := side(family, destination)
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: length, Mask: mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: prefix},
	}
}

// CameByOneOf matches packets whose input interface is in the set.
func CameByOneOf(set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
		&expr.Lookup{SourceRegister: reg, SetName: set},
	}
}

// ToPortIn matches packets whose pair of protocol and destination port is in the set.
func ToPortIn(set string) []expr.Any {
	return append(toPort(), &expr.Lookup{SourceRegister: word0, SetName: set})
}

// toPort loads protocol and destination port into the first two registers.
func toPort() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word0},
		&expr.Payload{DestRegister: word0 + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// DeliveredIn matches packets whose protocol, destination port and destination
// address are together in the set. Precede it with Protocol.
func DeliveredIn(family byte, set string) []expr.Any {
	offset, length := side(family, true)
	return append(toPort(),
		&expr.Payload{DestRegister: word0 + 2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: word0, SetName: set},
	)
}

// ThroughIn matches packets whose pair of input and output interface is in the set.
// After the routing decision it needs Linux 5.7.
func ThroughIn(set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: word0},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: word0 + unix.IFNAMSIZ/4},
		&expr.Lookup{SourceRegister: word0, SetName: set},
	}
}

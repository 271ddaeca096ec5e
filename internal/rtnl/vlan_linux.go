package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// VLANs are ids from First to Last.
type VLANs struct {
	First, Last uint16
	Native      bool // untagged in and out
}

// AddVLANs lets a port, or a bridge itself, take part in the VLANs.
func AddVLANs(l *Link, vlans ...VLANs) *nlsock.Message {
	return vlanMessage(unix.RTM_SETLINK, l, vlans)
}

// RemoveVLANs is the opposite of AddVLANs.
func RemoveVLANs(l *Link, vlans ...VLANs) *nlsock.Message {
	return vlanMessage(unix.RTM_DELLINK, l, vlans)
}

// Of linux/if_bridge.h.
const (
	bridgeVLANInfo = 2
	vlanPVID       = 1 << 1
	vlanUntagged   = 1 << 2
	vlanRangeBegin = 1 << 3
	vlanRangeEnd   = 1 << 4
)

func vlanMessage(kind uint16, l *Link, vlans []VLANs) *nlsock.Message {
	m := nlsock.New(named("setting the VLANs of", l.Name), kind, 0, linkHeader(unix.AF_BRIDGE, l.Index, 0, 0))
	add := func(flags, id uint16) {
		b := binary.NativeEndian.AppendUint16(nil, flags)
		m.Bytes(bridgeVLANInfo, binary.NativeEndian.AppendUint16(b, id))
	}
	m.Nest(unix.IFLA_AF_SPEC, func() {
		for _, v := range vlans {
			flags := uint16(0)
			if v.Native {
				flags = vlanPVID | vlanUntagged
			}
			if v.First == v.Last {
				add(flags, v.First)
				continue
			}
			add(flags|vlanRangeBegin, v.First)
			add(flags|vlanRangeEnd, v.Last)
		}
	})
	return m
}

// VLANsOf lists the VLANs that a port takes part in.
func (c *Conn) VLANsOf(l *Link) (out []VLANs, err error) {
	const filterVLAN = 1 << 1 // RTEXT_FILTER_BRVLAN
	m := nlsock.New(named("listing the VLANs of", l.Name), unix.RTM_GETLINK, unix.NLM_F_DUMP, linkHeader(unix.AF_BRIDGE, 0, 0, 0))
	m.U32(unix.IFLA_EXT_MASK, filterVLAN)
	if l.Master != 0 {
		m.U32(unix.IFLA_MASTER, uint32(l.Master))
	}
	err = c.dump(m, func(entry []byte) {
		if len(entry) < unix.SizeofIfInfomsg || int(binary.NativeEndian.Uint32(entry[4:])) != l.Index {
			return
		}
		spec := nlsock.Attr(entry[unix.SizeofIfInfomsg:], unix.IFLA_AF_SPEC)
		nlsock.Attrs(spec, func(kind uint16, v []byte) {
			if kind == bridgeVLANInfo && len(v) >= 4 {
				flags, id := binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])
				out = append(out, VLANs{First: id, Last: id, Native: flags&vlanPVID != 0 && flags&vlanUntagged != 0})
			}
		})
	})
	return out, err
}

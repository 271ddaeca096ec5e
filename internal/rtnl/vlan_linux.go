package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// VLANs is the VLAN ids from First to Last.
type VLANs struct {
	First, Last uint16
	Native      bool // untagged in and out
}

// AddVLANs adds a port, or a bridge itself, to the VLANs.
func AddVLANs(l *Link, vlans ...VLANs) *nlsock.Message {
	return vlanMessage(unix.RTM_SETLINK, l, vlans)
}

// RemoveVLANs is the opposite of AddVLANs.
func RemoveVLANs(l *Link, vlans ...VLANs) *nlsock.Message {
	return vlanMessage(unix.RTM_DELLINK, l, vlans)
}

// From linux/if_bridge.h.
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

// From linux/if_bridge.h; kernels before 5.6 lack all of it.
const (
	sizeOfVLANHeader = 8
	vlanEntry        = 1
	vlanInfo         = 1
	vlanRange        = 2
)

// VLANsOf lists the VLANs of a port, each as a single id.
func (c *Conn) VLANsOf(l *Link) (out []VLANs, err error) {
	header := make([]byte, sizeOfVLANHeader)
	header[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(header[4:], uint32(l.Index))
	m := nlsock.New(named("listing the VLANs of", l.Name), unix.RTM_GETVLAN, unix.NLM_F_DUMP, header)
	err = c.dump(m, func(reply []byte) { out = append(out, parseVLANs(reply)...) })
	return out, err
}

func parseVLANs(reply []byte) (out []VLANs) {
	if len(reply) < sizeOfVLANHeader {
		return nil
	}
	nlsock.Attrs(reply[sizeOfVLANHeader:], func(kind uint16, v []byte) {
		vlan := nlsock.Attr(v, vlanInfo)
		if kind != vlanEntry || len(vlan) < 4 {
			return
		}
		flags, first := binary.NativeEndian.Uint16(vlan), binary.NativeEndian.Uint16(vlan[2:])
		last := first
		if end := nlsock.Attr(v, vlanRange); len(end) >= 2 {
			last = binary.NativeEndian.Uint16(end)
		}
		for id := int(first); id <= int(last); id++ { // a uint16 would never exceed the greatest
			out = append(out, VLANs{First: uint16(id), Last: uint16(id), Native: flags&vlanPVID != 0 && flags&vlanUntagged != 0})
		}
	})
	return out
}

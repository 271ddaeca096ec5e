package rtnl

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Attributes in linux/if_link.h that golang.org/x/sys/unix does not name.
const (
	infoKind, infoData           = 1, 2
	infoSlaveKind, infoSlaveData = 4, 5
	vethPeer                     = 1
	brVLANFiltering              = 7
	brDefaultVLAN                = 39
	portState, portHairpin       = 1, 4
	portLearning                 = 8
	portUnicastFlood             = 9
	portFlush                    = 24
	portMulticastFlood           = 27
	portBroadcastFlood           = 30
	portIsolated                 = 33
	portLocked                   = 39
	skipStats                    = 1 << 3 // of IFLA_EXT_MASK
)

// Link is a network interface.
type Link struct {
	Index, Master int // Master is 0 if the link is not a port
	Peer          int // the index of a veth's other end, in that end's namespace
	Name, Kind    string
	Alias         string
	MAC           net.HardwareAddr
	MTU           int
	Group         uint32
	Up, Promisc   bool
	Loopback      bool
	// VLANFiltering and DefaultVLAN apply to bridges: whether VLAN filtering is
	// enabled, and the VLAN in which new ports are, or 0.
	VLANFiltering bool
	DefaultVLAN   uint16
	// Hairpin, Isolated and Disabled apply to bridge ports.
	Hairpin, Isolated, Disabled bool
	// Operational means up with a carrier, as far as the kernel has processed it.
	Operational bool
}

// Link returns the link of that name, or fault.NotFound. Since Linux 6.9 the kernel
// first processes pending carrier events, so that Operational is accurate.
func (c *Conn) Link(name string) (*Link, error) {
	all, err := c.Links(name)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// Links is Link for several names.
func (c *Conn) Links(names ...string) (out []*Link, err error) {
	requests := make([]*nlsock.Message, len(names))
	for i, name := range names {
		requests[i] = nlsock.New(named("looking for", name), unix.RTM_GETLINK, 0, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
		requests[i].String(unix.IFLA_IFNAME, name)
		requests[i].U32(unix.IFLA_EXT_MASK, skipStats)
	}
	replies, err := c.ask(requests...)
	if err != nil {
		return nil, err
	}
	for _, r := range replies {
		out = append(out, parseLink(r))
	}
	return out, nil
}

// LinkTo returns the link by which the host sends to the address. If there is no
// route, the error is fault.NotFound.
func (c *Conn) LinkTo(addr netip.Addr) (*Link, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = familyOf(addr.AsSlice()), uint8(addr.BitLen())
	m := nlsock.New("looking for the route to "+addr.String(), unix.RTM_GETROUTE, 0, header)
	m.Bytes(unix.RTA_DST, addr.AsSlice())
	route, err := c.ask(m)
	if err != nil {
		return nil, err
	}
	paths := parseRoute(route[0])
	if len(paths) == 0 {
		return nil, fault.Internal.Errorf("%s: the kernel answered in %d bytes", m.What, len(route[0]))
	}
	index := paths[0].Link
	m = nlsock.New("looking for the interface towards "+addr.String(), unix.RTM_GETLINK, 0, linkHeader(unix.AF_UNSPEC, index, 0, 0))
	m.U32(unix.IFLA_EXT_MASK, skipStats)
	link, err := c.ask(m)
	if err != nil {
		return nil, err
	}
	return parseLink(link[0]), nil
}

// Veths lists the links of kind veth.
func (c *Conn) Veths() ([]*Link, error) {
	m := nlsock.New("listing veth pairs", unix.RTM_GETLINK, unix.NLM_F_DUMP, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.Nest(unix.IFLA_LINKINFO, func() { m.String(infoKind, "veth") })
	return c.links(m, func(l *Link) bool { return l.Kind == "veth" })
}

// Probe reports why the kernel would not create a link of the kind, without creating
// one.
func (c *Conn) Probe(kind string) error {
	// A MAC address of one byte is refused only after everything else was accepted.
	m := nlsock.New("trying whether there can be links of kind "+kind, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.String(unix.IFLA_IFNAME, "probe-%d")
	m.U8(unix.IFLA_ADDRESS, 2)
	m.Nest(unix.IFLA_LINKINFO, func() { m.String(infoKind, kind) })
	if err := c.Do(m); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// Ports lists the ports of the bridge.
func (c *Conn) Ports(bridge int) ([]*Link, error) {
	m := nlsock.New("listing the ports of a bridge", unix.RTM_GETLINK, unix.NLM_F_DUMP, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.U32(unix.IFLA_MASTER, uint32(bridge))
	return c.links(m, func(l *Link) bool { return l.Master == bridge })
}

// Counters are the traffic counters of a link since its creation.
type Counters struct {
	RxPackets, TxPackets, RxBytes, TxBytes, RxErrors, TxErrors, RxDropped, TxDropped uint64
}

// All lists the links of the namespace in which c was opened, ordered by index, with
// the counters of each.
func (c *Conn) All() (links []*Link, counted []Counters, err error) {
	m := nlsock.New("listing links", unix.RTM_GETLINK, unix.NLM_F_DUMP, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	err = c.dump(m, func(entry []byte) {
		links, counted = append(links, parseLink(entry)), append(counted, parseCounters(entry))
	})
	return links, counted, err
}

// parseCounters decodes struct rtnl_link_stats64, whose first eight numbers are those
// of Counters.
func parseCounters(b []byte) (n Counters) {
	if len(b) < unix.SizeofIfInfomsg {
		return n
	}
	v := nlsock.Attr(b[unix.SizeofIfInfomsg:], unix.IFLA_STATS64)
	for i, into := range []*uint64{&n.RxPackets, &n.TxPackets, &n.RxBytes, &n.TxBytes, &n.RxErrors, &n.TxErrors, &n.RxDropped, &n.TxDropped} {
		if len(v) >= 8*(i+1) {
			*into = binary.NativeEndian.Uint64(v[8*i:])
		}
	}
	return n
}

func (c *Conn) links(m *nlsock.Message, want func(*Link) bool) (out []*Link, err error) {
	err = c.dump(m, func(entry []byte) {
		if l := parseLink(entry); want(l) {
			out = append(out, l)
		}
	})
	return out, err
}

func parseLink(b []byte) *Link {
	l := &Link{}
	if len(b) < unix.SizeofIfInfomsg {
		return l
	}
	l.Index = int(binary.NativeEndian.Uint32(b[4:]))
	flags := binary.NativeEndian.Uint32(b[8:])
	l.Up, l.Promisc, l.Loopback = flags&unix.IFF_UP != 0, flags&unix.IFF_PROMISC != 0, flags&unix.IFF_LOOPBACK != 0
	nlsock.Attrs(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = nlsock.String(v)
		case unix.IFLA_IFALIAS:
			l.Alias = nlsock.String(v)
		case unix.IFLA_ADDRESS:
			if len(v) > 0 {
				l.MAC = net.HardwareAddr(v)
			}
		case unix.IFLA_MTU:
			l.MTU = int(nlsock.U32(v))
		case unix.IFLA_MASTER:
			l.Master = int(nlsock.U32(v))
		case unix.IFLA_LINK:
			l.Peer = int(nlsock.U32(v))
		case unix.IFLA_GROUP:
			l.Group = nlsock.U32(v)
		case unix.IFLA_OPERSTATE:
			const up = 6 // IF_OPER_UP
			l.Operational = len(v) > 0 && v[0] == up
		case unix.IFLA_LINKINFO:
			l.parseInfo(v)
		}
	})
	return l
}

func (l *Link) parseInfo(b []byte) {
	l.Kind = nlsock.String(nlsock.Attr(b, infoKind))
	is := func(v []byte) bool { return len(v) > 0 && v[0] != 0 }
	if l.Kind == "bridge" {
		data := nlsock.Attr(b, infoData)
		l.VLANFiltering = is(nlsock.Attr(data, brVLANFiltering))
		if id := nlsock.Attr(data, brDefaultVLAN); len(id) >= 2 {
			l.DefaultVLAN = binary.NativeEndian.Uint16(id)
		}
	}
	if nlsock.String(nlsock.Attr(b, infoSlaveKind)) != "bridge" {
		return
	}
	port := nlsock.Attr(b, infoSlaveData)
	l.Hairpin, l.Isolated = is(nlsock.Attr(port, portHairpin)), is(nlsock.Attr(port, portIsolated))
	state := nlsock.Attr(port, portState)
	l.Disabled = len(state) > 0 && state[0] == 0 // BR_STATE_DISABLED
}

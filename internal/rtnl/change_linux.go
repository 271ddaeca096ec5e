package rtnl

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Pair is a veth pair to be created.
type Pair struct {
	Name, Peer string
	Master     int // the bridge of which the near end becomes a port, without an IPv6 link-local address; or 0
	MTU        int // of both ends; 0 means the kernel's default
	PeerMAC    net.HardwareAddr
	PeerNS     int // a descriptor of the far end's network namespace, or -1
	Alias      string
	Hairpin    bool // of the near end as a port, like Isolated
	Isolated   bool
	Up         bool // brings the near end up
}

// AddPair creates the pair and returns its near end as it was right after that. The
// kernel gets everything in one write: a process that is killed leaves nothing, or a
// pair with its alias. If a name is taken, the error is fault.AlreadyExists.
//
// Each end has one queue per direction, as by default. But by default the kernel
// first creates one for every possible processor and then removes the others, for
// which it waits twice for all processors while it holds the RTNL lock. The price is
// that nobody can give an end more queues later (ethtool -L), as on kernels without
// that behaviour.
//
// The link that gets the alias is found by name, so callers must first make sure that
// the name is free.
func (c *Conn) AddPair(p *Pair) (*Link, error) {
	create := nlsock.New(named("making veth pair", p.Name), unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ECHO, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	create.String(unix.IFLA_IFNAME, p.Name)
	oneQueue(create)
	if p.MTU > 0 {
		create.U32(unix.IFLA_MTU, uint32(p.MTU))
	}
	if p.Master != 0 {
		create.U32(unix.IFLA_MASTER, uint32(p.Master))
	}
	create.Nest(unix.IFLA_LINKINFO, func() {
		create.String(infoKind, "veth")
		create.Nest(infoData, func() { p.addPeer(create) })
	})
	requests := []*nlsock.Message{create}
	if p.Master != 0 {
		requests = append(requests, p.withoutLinkLocal())
	}
	answers, err := c.socket.Exchange(append(requests, p.settle())...)
	if err != nil {
		return nil, err
	}
	if err := answers[0].Err; err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = fault.AlreadyExists.Wrap(err)
		}
		return nil, err
	}
	for _, a := range answers[1:] {
		if a.Err != nil && !errors.Is(a.Err, unix.EAFNOSUPPORT) { // a link without IPv6
			return nil, a.Err
		}
	}
	if replies := answers[0].Replies; len(replies) > 0 {
		return parseLink(replies[0]), nil
	}
	return c.Link(p.Name) // kernels before 6.2 do not echo it
}

func (p *Pair) addPeer(m *nlsock.Message) {
	m.NestRaw(vethPeer, linkHeader(unix.AF_UNSPEC, 0, 0, 0), func() {
		m.String(unix.IFLA_IFNAME, p.Peer)
		oneQueue(m)
		if p.MTU > 0 {
			m.U32(unix.IFLA_MTU, uint32(p.MTU))
		}
		if p.PeerMAC != nil {
			m.Bytes(unix.IFLA_ADDRESS, p.PeerMAC)
		}
		if p.PeerNS >= 0 {
			m.U32(unix.IFLA_NET_NS_FD, uint32(p.PeerNS))
		}
	})
}

func oneQueue(m *nlsock.Message) {
	m.U32(unix.IFLA_NUM_TX_QUEUES, 1)
	m.U32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// withoutLinkLocal keeps the kernel from giving the end an IPv6 link-local address when it
// is brought up. A bridge port needs none, and each is probed and joins multicast groups, of
// which the other end is told. A kernel without IPv6, or with too small an MTU for it,
// answers EAFNOSUPPORT.
func (p *Pair) withoutLinkLocal() *nlsock.Message {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
	m := nlsock.New(named("setting up IPv6 of", p.Name), unix.RTM_NEWLINK, 0, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.String(unix.IFLA_IFNAME, p.Name)
	m.Nest(unix.IFLA_AF_SPEC, func() {
		m.Nest(unix.AF_INET6, func() { m.U8(unix.IFLA_INET6_ADDR_GEN_MODE, none) })
	})
	return m
}

// settle sets what the kernel ignores at creation.
func (p *Pair) settle() *nlsock.Message {
	flags := uint32(0)
	if p.Up {
		flags = unix.IFF_UP
	}
	m := nlsock.New(named("setting up", p.Name), unix.RTM_NEWLINK, 0, linkHeader(unix.AF_UNSPEC, 0, flags, flags))
	m.String(unix.IFLA_IFNAME, p.Name)
	if p.Alias != "" {
		m.String(unix.IFLA_IFALIAS, p.Alias)
	}
	if p.Hairpin || p.Isolated {
		addPortOptions(m, p.Hairpin, p.Isolated)
	}
	return m
}

func addPortOptions(m *nlsock.Message, hairpin, isolated bool) {
	bit := map[bool]uint8{true: 1}
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(infoSlaveKind, "bridge")
		m.Nest(infoSlaveData, func() {
			m.U8(portHairpin, bit[hairpin])
			m.U8(portIsolated, bit[isolated])
		})
	})
}

// SetPort sets the options of a bridge port.
func SetPort(l *Link, hairpin, isolated bool) *nlsock.Message {
	m := nlsock.New(named("setting hairpin mode and isolation of", l.Name), unix.RTM_NEWLINK, 0, linkHeader(unix.AF_UNSPEC, l.Index, 0, 0))
	addPortOptions(m, hairpin, isolated)
	return m
}

// DisablePort makes the bridge drop all traffic from and to the port, without the
// wait for setting it down or removing it from the bridge. It also sets the link's
// alias and group.
func DisablePort(l *Link, alias string, group uint32) []*nlsock.Message {
	mark := setLink("marking", l, 0)
	mark.String(unix.IFLA_IFALIAS, alias)
	mark.U32(unix.IFLA_GROUP, group)
	if l.Master == 0 {
		return []*nlsock.Message{mark}
	}
	// This needs a separate request of another family, because any change of the link
	// itself, and the return of its carrier, enables a port that has a carrier. For
	// the latter the port is also locked: it learns nothing, and drops frames from
	// unknown addresses.
	disable := nlsock.New(named("disabling port", l.Name), unix.RTM_SETLINK, 0, linkHeader(unix.AF_BRIDGE, l.Index, 0, 0))
	disable.Nest(unix.IFLA_PROTINFO, func() {
		for _, option := range []uint16{portState, portLearning, portUnicastFlood, portMulticastFlood, portBroadcastFlood} {
			disable.U8(option, 0)
		}
		disable.U8(portLocked, 1)
		disable.Bytes(portFlush, nil)
	})
	return []*nlsock.Message{mark, disable}
}

// AddBridge creates a bridge that is down and has the given MAC address.
func AddBridge(name string, mtu int, mac net.HardwareAddr, vlans bool) *nlsock.Message {
	m := nlsock.New(named("making bridge", name), unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.String(unix.IFLA_IFNAME, name)
	m.Bytes(unix.IFLA_ADDRESS, mac)
	if mtu > 0 {
		m.U32(unix.IFLA_MTU, uint32(mtu))
	}
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(infoKind, "bridge")
		if vlans {
			m.Nest(infoData, func() { m.U8(brVLANFiltering, 1) })
		}
	})
	return m
}

// FilterVLANs enables VLAN filtering on the bridge.
func FilterVLANs(l *Link) *nlsock.Message {
	m := nlsock.New(named("switching VLAN filtering on for", l.Name), unix.RTM_NEWLINK, 0, linkHeader(unix.AF_UNSPEC, l.Index, 0, 0))
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(infoKind, "bridge")
		m.Nest(infoData, func() { m.U8(brVLANFiltering, 1) })
	})
	return m
}

func setLink(what string, l *Link, flags uint32) *nlsock.Message {
	return nlsock.New(named(what, l.Name), unix.RTM_NEWLINK, 0, linkHeader(unix.AF_UNSPEC, l.Index, flags, flags))
}

// Up brings the link up.
func Up(l *Link) *nlsock.Message { return setLink("bringing up", l, unix.IFF_UP) }

// Promisc makes the link promiscuous.
func Promisc(l *Link) *nlsock.Message { return setLink("making promiscuous", l, unix.IFF_PROMISC) }

// SetMTU sets the link's MTU.
func SetMTU(l *Link, mtu int) *nlsock.Message {
	m := setLink("setting the MTU of", l, 0)
	m.U32(unix.IFLA_MTU, uint32(mtu))
	return m
}

// SetMaster makes the link a port of the bridge.
func SetMaster(l *Link, bridge int) *nlsock.Message {
	m := setLink("connecting with the bridge", l, 0)
	m.U32(unix.IFLA_MASTER, uint32(bridge))
	return m
}

// AnnounceARP brings the link up and makes it announce its IPv4 addresses when it
// comes up and on Announce (arp_notify).
func AnnounceARP(l *Link) *nlsock.Message {
	const inetConf, arpNotify = 1, 22 // IFLA_INET_CONF, IPV4_DEVCONF_ARP_NOTIFY
	m := setLink("bringing up", l, unix.IFF_UP)
	m.Nest(unix.IFLA_AF_SPEC, func() {
		m.Nest(unix.AF_INET, func() {
			m.Nest(inetConf, func() { m.U32(arpNotify, 1) })
		})
	})
	return m
}

// Announce sets the link's MAC address to its current value, upon which the kernel
// announces the link's addresses to the neighbours.
func Announce(l *Link) *nlsock.Message {
	m := setLink("announcing the addresses of", l, 0)
	m.Bytes(unix.IFLA_ADDRESS, l.MAC)
	return m
}

// SetGroup puts the link into a group of links.
func SetGroup(l *Link, group uint32) *nlsock.Message {
	m := setLink("putting into a group", l, 0)
	m.U32(unix.IFLA_GROUP, group)
	return m
}

// Delete removes a link.
func Delete(l *Link) *nlsock.Message {
	return nlsock.New(named("removing", l.Name), unix.RTM_DELLINK, 0, linkHeader(unix.AF_UNSPEC, l.Index, 0, 0))
}

// DeleteGroup removes every link of the group, which takes as long as removing one.
// Group 0 is the default group of all links: never pass it.
func DeleteGroup(group uint32) *nlsock.Message {
	m := nlsock.New("removing a group of links", unix.RTM_DELLINK, 0, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.U32(unix.IFLA_GROUP, group)
	return m
}

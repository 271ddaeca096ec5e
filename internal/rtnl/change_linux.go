package rtnl

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Pair is a veth pair that is to be made.
type Pair struct {
	Name, Peer string
	Master     int // the bridge that the near end becomes a port of, or 0
	MTU        int // of both ends; 0 is the kernel's default
	PeerMAC    net.HardwareAddr
	PeerNS     int // a descriptor of the far end's network namespace, or -1
	Alias      string
	Hairpin    bool // of the near end as a port, as the next one
	Isolated   bool
	Up         bool // brings the near end up
}

// AddPair makes the pair and returns its near end as it was right after that.
// The kernel gets all of it in one write: a process that is killed leaves
// nothing, or a pair with its alias. A name that is taken is fault.AlreadyExists.
//
// Each end has one queue in each direction, which is also what the kernel leaves a
// pair with when nobody asks. But then it first makes one for every processor that the
// machine could have, and takes the others away again, for which it waits twice for all
// processors, with the lock on all links held. The price is that nobody can give an end
// more later on (ethtool -L), as with kernels that did not do that.
//
// What the alias is written to is found by name, so callers first make sure that
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
	answers, err := c.socket.Exchange(create, p.settle())
	if err != nil {
		return nil, err
	}
	if err := answers[0].Err; err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = fault.AlreadyExists.Wrap(err)
		}
		return nil, err
	}
	if err := answers[1].Err; err != nil {
		return nil, err
	}
	if replies := answers[0].Replies; len(replies) > 0 {
		return parseLink(replies[0]), nil
	}
	return c.Link(p.Name) // kernels before 6.2 do not tell
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

// SetPort sets the options of a bridge's port.
func SetPort(l *Link, hairpin, isolated bool) *nlsock.Message {
	m := nlsock.New(named("setting hairpin mode and isolation of", l.Name), unix.RTM_NEWLINK, 0, linkHeader(unix.AF_UNSPEC, l.Index, 0, 0))
	addPortOptions(m, hairpin, isolated)
	return m
}

// DisablePort makes the bridge drop what comes from the port and goes to it,
// without the wait that taking it down or out costs. The link also gets an alias
// and into a group.
func DisablePort(l *Link, alias string, group uint32) []*nlsock.Message {
	mark := setLink("marking", l, 0)
	mark.String(unix.IFLA_IFALIAS, alias)
	mark.U32(unix.IFLA_GROUP, group)
	if l.Master == 0 {
		return []*nlsock.Message{mark}
	}
	// A request of another family, because any change of the link itself enables a
	// port that has a carrier, as does the carrier when it comes anew. So the
	// port is locked as well: it learns nothing, and what it does not know it drops.
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

// AddBridge makes a bridge that is down and has a MAC address of its own.
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

// FilterVLANs makes the bridge keep VLANs apart.
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

// Promisc makes the link take packets for other addresses.
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

// AnnounceARP brings the link up and makes it announce its IPv4 addresses when
// it comes up and when Announce says so (arp_notify).
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

// Announce sets the link's MAC address to what it is, on which the kernel tells
// the neighbours who has the addresses now.
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

// DeleteGroup removes every link of the group, which costs as much as removing
// one. Group 0 is every link that is in no other: never name it.
func DeleteGroup(group uint32) *nlsock.Message {
	m := nlsock.New("removing a group of links", unix.RTM_DELLINK, 0, linkHeader(unix.AF_UNSPEC, 0, 0, 0))
	m.U32(unix.IFLA_GROUP, group)
	return m
}

package leak

import (
	"bytes"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/redump"
)

// neighbours excludes what the kernel learns by itself.
func neighbours(scope *Scope) (things, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	all, err := redump.List(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	proxies, err := redump.List(func() ([]netlink.Neigh, error) { return netlink.NeighProxyList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, n := range all {
		if link := names[n.LinkIndex]; n.State&netlink.NUD_PERMANENT != 0 && scope.matches(Neighbour, link) {
			name := fmt.Sprintf("%s %s lladdr %s", link, n.IP, n.HardwareAddr)
			found.add(name, name)
		}
	}
	for _, n := range proxies {
		if link := names[n.LinkIndex]; scope.matches(Neighbour, link) {
			name := fmt.Sprintf("%s %s proxy", link, n.IP)
			found.add(name, name)
		}
	}
	return found, nil
}

// forwarding excludes what bridges and tunnels learn by themselves, and the addresses
// of a bridge and of its ports.
func forwarding(scope *Scope) (things, error) {
	links, err := redump.List(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	names, macs := make(map[int]string), make(map[int]net.HardwareAddr)
	for _, l := range links {
		names[l.Attrs().Index], macs[l.Attrs().Index] = l.Attrs().Name, l.Attrs().HardwareAddr
	}
	all, err := redump.List(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, n := range all {
		lasting := n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 || n.Flags&netlink.NTF_EXT_LEARNED != 0
		ofBridge := n.MasterIndex != 0 && !bytes.Equal(n.HardwareAddr, macs[n.LinkIndex]) && !bytes.Equal(n.HardwareAddr, macs[n.MasterIndex])
		ofTunnel := n.MasterIndex == 0 && n.IP != nil // without an IP it is an address that an interface listens to
		link := names[n.LinkIndex]
		if !lasting || !ofBridge && !ofTunnel || !scope.matches(Forwarding, link) {
			continue
		}
		name := fmt.Sprintf("%s %s", link, n.HardwareAddr)
		if n.Vlan != 0 {
			name += fmt.Sprintf(" vlan %d", n.Vlan)
		}
		if n.IP != nil {
			name += fmt.Sprintf(" dst %s", n.IP)
		}
		found.add(name, name)
	}
	return found, nil
}

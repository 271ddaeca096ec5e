// Package portmap is the portmap CNI plugin (specification 1.1.0, convention
// portMappings): it forwards ports of the host to a container, as a chained
// plugin behind the one that made the interface.
//
// Port mappings are elements of nftables maps, programmed over netlink: two
// rules for each address family, however many mappings there are. Only packets
// to an address of this host are forwarded, whether they come from outside, from
// another container or from the host itself; connections to 127.0.0.1 are not.
// Packets of a container to its own mapping are masqueraded, or it would answer
// itself directly.
//
// A host port belongs to one attachment at a time: a second one is refused.
// Elements carry their owner, so DEL needs neither prevResult nor runtimeConfig.
// Of upstream's keys, snat and masqAll are refused by name; backend may be
// "nftables".
package portmap

import (
	"net"
	"net/netip"

	"github.com/nodekit-project/nodekit/cni"
)

// defaultTable is the nftables table (family inet) of a configuration that
// names none.
const defaultTable = "cni-portmap"

// Config is the plugin's part of a network configuration.
type Config struct {
	// NFTTable is the nftables table, by default "cni-portmap". Nodes that share a
	// machine have one each.
	NFTTable string `json:"nftTable"`
	// Backend is "nftables" or empty. There is no other.
	Backend       string `json:"backend"`
	RuntimeConfig struct {
		PortMappings []Mapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// Mapping forwards one port of the host.
type Mapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // "tcp" or "udp", in either case; empty is tcp
	HostIP        string `json:"hostIP"`   // empty or unspecified: every address of the host
}

// Plugin returns the plugin, under its usual name "portmap".
func Plugin() *cni.Plugin {
	p := cni.New("portmap", cni.Handlers[Config]{Add: add, Del: del, Check: check, GC: gc, Status: status})
	p.Adjusts = true
	return p
}

func (c *Config) complete() error {
	if c.NFTTable == "" {
		c.NFTTable = defaultTable
	}
	if c.Backend != "" && c.Backend != "nftables" {
		return cni.Errorf(cni.CodeConfig, "backend %q: this plugin has nftables only", c.Backend)
	}
	return nil
}

// forward is a mapping to one of the container's addresses.
type forward struct {
	protocol  byte
	host      netip.Addr // not valid: every address
	container netip.Addr
	from, to  uint16
}

// forwards returns what the mappings come to for the container's addresses: one
// for each address family that both sides have. A mapping without a host port
// asks for nothing.
func (c *Config) forwards(prev *cni.Result) ([]forward, error) {
	var out []forward
	addrs := containerAddrs(prev)
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		f, err := m.parse()
		if err != nil {
			return nil, cni.Errorf(cni.CodeConfig, "portMappings, hostPort %d: %w", m.HostPort, err)
		}
		found := false
		for _, a := range addrs {
			if f.host.IsValid() && f.host.Is4() != a.Is4() {
				continue
			}
			f.container, found = a, true
			out = append(out, f)
		}
		if !found {
			return nil, cni.Errorf(cni.CodeConfig, "portMappings, hostPort %d: the container has no address that it could lead to", m.HostPort)
		}
	}
	return out, nil
}

// containerAddrs returns the first address of each family that is on an
// interface in the container.
func containerAddrs(prev *cni.Result) []netip.Addr {
	var v4, v6 netip.Addr
	for _, ip := range prev.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(prev.Interfaces) || prev.Interfaces[*i].Sandbox == "") {
			continue
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		a = a.Unmap()
		switch {
		case !ok:
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		}
	}
	var out []netip.Addr
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

func (m Mapping) parse() (f forward, err error) {
	switch m.Protocol {
	case "tcp", "TCP", "":
		f.protocol = protoTCP
	case "udp", "UDP":
		f.protocol = protoUDP
	default:
		return f, cni.Errorf(cni.CodeConfig, "protocol %q: only tcp and udp are forwarded", m.Protocol)
	}
	for _, port := range []int{m.HostPort, m.ContainerPort} {
		if port < 1 || port > 65535 {
			return f, cni.Errorf(cni.CodeConfig, "port %d is not between 1 and 65535", port)
		}
	}
	f.from, f.to = uint16(m.HostPort), uint16(m.ContainerPort)
	if m.HostIP == "" {
		return f, nil
	}
	host := net.ParseIP(m.HostIP)
	if host == nil {
		return f, cni.Errorf(cni.CodeConfig, "hostIP %q is no address", m.HostIP)
	}
	if !host.IsUnspecified() {
		f.host, _ = netip.AddrFromSlice(host)
		f.host = f.host.Unmap()
	}
	return f, nil
}

const (
	protoTCP = 6
	protoUDP = 17
)

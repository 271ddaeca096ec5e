package portmap

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
)

// defaultTable is the nftables table (family inet) of a configuration without
// NFTTable.
const defaultTable = "cni-portmap"

// Config is the plugin's part of a network configuration.
type Config struct {
	// NFTTable is the nftables table. The default is "cni-portmap". Nodes that share
	// a machine need one each; ports in different tables are not compared.
	NFTTable string `json:"nftTable"`
	// Backend is "nftables", "iptables" or empty. All three mean nftables, which
	// coexists with iptables rules; "iptables" is reported in the log.
	Backend string `json:"backend"`
	// SNAT, true by default, masquerades connections whose replies would bypass the
	// host, and forwards 127.0.0.1.
	SNAT *bool `json:"snat"`
	// MasqAll masquerades every forwarded connection, and also those that others,
	// such as a Service proxy, translate to the same port of the container. It needs
	// SNAT.
	MasqAll bool `json:"masqAll"`
	// MarkMasqBit is the bit, 0 to 31, with which iptables would mark packets. This
	// plugin finds out by connection tracking what to masquerade, so it marks no
	// packet and leaves every bit to others.
	MarkMasqBit *int `json:"markMasqBit"`
	// ExternalSetMarkChain is refused: it names an iptables chain.
	ExternalSetMarkChain string `json:"externalSetMarkChain"`
	// ConditionsV4 and ConditionsV6 are refused: they are arguments for iptables or
	// nft, neither of which is executed, and ignoring a condition would open a port.
	ConditionsV4  []string      `json:"conditionsV4"`
	ConditionsV6  []string      `json:"conditionsV6"`
	RuntimeConfig RuntimeConfig `json:"runtimeConfig"`
}

// RuntimeConfig is what the runtime adds.
type RuntimeConfig struct {
	PortMappings []Mapping `json:"portMappings"`
}

// Mapping forwards one port of the host.
type Mapping struct {
	HostPort      int    `json:"hostPort"` // 0 means that the mapping asks for nothing
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // "tcp", "udp" or "sctp", in any case; empty means tcp
	// HostIP is one address of the host. Empty means every address, 0.0.0.0 every
	// IPv4 address, and :: every IPv6 address.
	HostIP string `json:"hostIP"`
}

// complete sets defaults and reports what is not supported, always with code 7.
func (c *Config) complete() error {
	if c.NFTTable == "" {
		c.NFTTable = defaultTable
	}
	if c.SNAT == nil {
		yes := true
		c.SNAT = &yes
	}
	switch bit := c.MarkMasqBit; {
	case c.Backend != "" && c.Backend != "nftables" && c.Backend != "iptables":
		return cni.Errorf(cni.CodeConfig, "backend %q: this plugin has nftables only", c.Backend)
	case c.MasqAll && !*c.SNAT:
		return cni.Errorf(cni.CodeConfig, "masqAll: it needs snat, which is false")
	case bit != nil && (*bit < 0 || *bit > 31):
		return cni.Errorf(cni.CodeConfig, "markMasqBit: %d is not between 0 and 31", *bit)
	case c.ExternalSetMarkChain != "":
		return cni.Errorf(cni.CodeConfig, "externalSetMarkChain %q: this plugin does not use chains of iptables; leave the key out and it masquerades by itself",
			c.ExternalSetMarkChain)
	}
	for key, words := range map[string][]string{"conditionsV4": c.ConditionsV4, "conditionsV6": c.ConditionsV6} {
		if len(words) > 0 {
			return cni.Errorf(cni.CodeConfig, "%s %q: this plugin executes neither iptables nor nft, which these words are for; "+
				"name the address in hostIP, or drop what must not come in by an nftables chain of your own with hook prerouting and priority mangle", key, words)
		}
	}
	return nil
}

// tell logs what the configuration's user should know.
func (c *Config) tell(log *slog.Logger) {
	if c.Backend == "iptables" {
		log.Warn("backend iptables: port mappings are in nftables, which this plugin always uses", "table", c.NFTTable)
	}
}

// Protocol numbers (IANA).
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// port is a valid mapping.
type port struct {
	protocol byte
	host     netip.Addr // the zero Addr: every address of both families; unspecified: every address of its family
	from, to uint16
	key      string // in the configuration, for errors
}

// ports parses the mappings. Two mappings of the same port are an error.
func (c *Config) ports() ([]port, error) {
	var out []port
	taken := map[[3]byte][]port{}
	for i, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		p, err := m.parse(fmt.Sprintf("runtimeConfig.portMappings[%d]", i))
		if err != nil {
			return nil, err
		}
		slot := [3]byte{p.protocol, byte(p.from >> 8), byte(p.from)}
		for _, other := range taken[slot] {
			if p.overlaps(other) {
				return nil, cni.Errorf(cni.CodeConfig, "%s.hostPort: %d is taken by %s", p.key, p.from, other.key)
			}
		}
		taken[slot] = append(taken[slot], p)
		out = append(out, p)
	}
	return out, nil
}

func (m Mapping) parse(key string) (port, error) {
	p := port{key: key}
	switch strings.ToLower(m.Protocol) {
	case "tcp", "":
		p.protocol = protoTCP
	case "udp":
		p.protocol = protoUDP
	case "sctp":
		p.protocol = protoSCTP
	default:
		return p, cni.Errorf(cni.CodeConfig, "%s.protocol: %q is none of tcp, udp, sctp", key, m.Protocol)
	}
	for name, number := range map[string]int{"hostPort": m.HostPort, "containerPort": m.ContainerPort} {
		if number < 1 || number > 65535 {
			return p, cni.Errorf(cni.CodeConfig, "%s.%s: %d is not between 1 and 65535", key, name, number)
		}
	}
	p.from, p.to = uint16(m.HostPort), uint16(m.ContainerPort)
	if m.HostIP == "" {
		return p, nil
	}
	host, err := netip.ParseAddr(m.HostIP)
	if err != nil || host.Zone() != "" {
		return p, cni.Errorf(cni.CodeConfig, "%s.hostIP: %q is no address", key, m.HostIP)
	}
	p.host = host.Unmap()
	if p.host.IsMulticast() || p.host == netip.IPv6LinkLocalAllNodes() || p.host == netip.IPv6Loopback() {
		return p, cni.Errorf(cni.CodeConfig, "%s.hostIP: nothing can be forwarded from %s", key, p.host)
	}
	return p, nil
}

// single reports whether the mapping is for a single address.
func (p port) single() bool { return p.host.IsValid() && !p.host.IsUnspecified() }

// local reports whether only the host itself can reach the mapping.
func (p port) local() bool { return p.host.Is4() && p.host.IsLoopback() }

// covers reports whether the mapping includes the address family of a.
func (p port) covers(a netip.Addr) bool { return !p.host.IsValid() || p.host.Is4() == a.Is4() }

// overlaps compares the addresses of two mappings of the same port.
func (p port) overlaps(o port) bool {
	if p.single() && o.single() {
		return p.host == o.host
	}
	return !p.host.IsValid() || !o.host.IsValid() || p.host.Is4() == o.host.Is4()
}

// forward is a mapping to one of the container's addresses.
type forward struct {
	port
	container netip.Addr
}

// forwards applies the mappings to the container's addresses: one forward for each
// address family that both have.
func (c *Config) forwards(prev *cni.Result, ifname string) ([]forward, error) {
	ports, err := c.ports()
	if err != nil || len(ports) == 0 {
		return nil, err
	}
	addrs, err := containerAddrs(prev, ifname)
	if err != nil {
		return nil, err
	}
	var out []forward
	for _, p := range ports {
		if p.local() && !*c.SNAT {
			return nil, cni.Errorf(cni.CodeConfig, "%s.hostIP: %s is forwarded by masquerading only, and snat is false", p.key, p.host)
		}
		before := len(out)
		for _, a := range addrs {
			if p.covers(a) {
				out = append(out, forward{p, a})
			}
		}
		if len(out) == before {
			return nil, cni.Errorf(cni.CodeConfig, "%s: the container has no address that host port %d could lead to", p.key, p.from)
		}
	}
	return out, nil
}

// containerAddrs returns the first address of each family that is on the interface,
// or for which the result names no interface.
func containerAddrs(prev *cni.Result, ifname string) (out []netip.Addr, err error) {
	have4, have6 := false, false
	for n, ip := range prev.IPs {
		if i := ip.Interface; i != nil {
			if *i < 0 || *i >= len(prev.Interfaces) {
				return nil, cni.Errorf(cni.CodeConfig, "prevResult.ips[%d].interface: there is no interface %d", n, *i)
			}
			if nic := prev.Interfaces[*i]; nic.Sandbox == "" || nic.Name != ifname {
				continue
			}
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		a = a.Unmap()
		if !ok {
			return nil, cni.Errorf(cni.CodeConfig, "prevResult.ips[%d].address: %s is no address", n, &ip.Address)
		}
		have := &have4
		if a.Is6() {
			have = &have6
		}
		if !*have {
			*have = true
			out = append(out, a)
		}
	}
	return out, nil
}

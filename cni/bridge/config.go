package bridge

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/cniname"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// Config is the plugin's part of a network configuration.
type Config struct {
	// Bridge is the name of the bridge, which is created if it does not exist. The
	// default is "cni0".
	Bridge string `json:"bridge"`
	// IsGateway assigns each subnet's gateway address to the bridge or, with VLAN, to
	// the VLAN's own interface "<bridge>.<vlan>".
	IsGateway bool `json:"isGateway"`
	// IsDefaultGateway implies IsGateway and adds a default route through it for each
	// address family for which IPAM returned no default route in the main table.
	IsDefaultGateway bool `json:"isDefaultGateway"`
	// ForceAddress replaces other addresses of the bridge by the gateway's: all IPv4
	// addresses, and IPv6 addresses of an overlapping subnet. Without it an address
	// of an overlapping subnet is an error.
	ForceAddress bool `json:"forceAddress"`
	// IPMasq masquerades what leaves by an interface other than the bridge, except
	// multicast.
	IPMasq bool `json:"ipMasq"`
	// IPMasqBackend is "nftables", "iptables" or empty. All three mean nftables,
	// which coexists with iptables rules; "iptables" is reported in the log.
	IPMasqBackend string `json:"ipMasqBackend"`
	// NFTTable is the name of the bridge's nftables tables. The default is "cni-"
	// followed by the bridge's name.
	NFTTable string `json:"nftTable"`
	// MTU is that of the pair and the bridge; 0 means the kernel's default.
	MTU int `json:"mtu"`
	// HairpinMode lets the bridge send a packet back out of the port that it came
	// from.
	HairpinMode bool `json:"hairpinMode"`
	// PromiscMode makes the bridge promiscuous. It excludes HairpinMode.
	PromiscMode bool `json:"promiscMode"`
	// VLAN is the VLAN of the container's untagged frames; 0 means none.
	VLAN int `json:"vlan"`
	// VLANTrunk lists the VLANs whose tagged frames the container gets. Its untagged
	// frames belong to VLAN, or to VLAN 1 if that is 0.
	VLANTrunk []Trunk `json:"vlanTrunk"`
	// PreserveDefaultVLAN keeps a port with VLAN or VLANTrunk in the bridge's default
	// VLAN too.
	PreserveDefaultVLAN bool `json:"preserveDefaultVlan"`
	// MACSpoofCheck drops frames of the container whose source address is not that of
	// its interface. It needs a kernel with nftables of family bridge.
	MACSpoofCheck bool `json:"macspoofchk"`
	// EnableDAD makes ADD wait for duplicate address detection of the IPv6 addresses,
	// which takes 2 seconds or longer. Without it the plugin relies on IPAM, and a
	// bridge that the ADD brings up also uses its link-local address at once.
	EnableDAD bool `json:"enabledad"`
	// DisableContainerInterface leaves the container's end down and without
	// addresses. It excludes IPAM.
	DisableContainerInterface bool `json:"disableContainerInterface"`
	// PortIsolation isolates containers that have it from each other; the host and
	// ports without it can reach them.
	PortIsolation bool      `json:"portIsolation"`
	IPAM          cni.IPAM  `json:"ipam"`
	DNS           types.DNS `json:"dns"`
	// MAC is the address of the container's end. If empty, the plugin chooses one.
	MAC string `json:"-" cni:"mac,MAC"`
}

// Trunk is a VLAN id, or the range of ids from MinID to MaxID.
type Trunk struct {
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
	ID    *int `json:"id"`
}

// iptables is the IPMasqBackend that is accepted but not used.
const iptables = "iptables"

// maxVLAN is the greatest VLAN id.
const maxVLAN = 4094

// complete sets defaults and refuses combinations that cannot work.
func (c *Config) complete() error {
	if c.Bridge == "" {
		c.Bridge = "cni0"
	}
	if c.NFTTable == "" {
		c.NFTTable = "cni-" + c.Bridge
	}
	c.IsGateway = c.IsGateway || c.IsDefaultGateway
	if err := cniname.InterfaceName(c.Bridge); err != nil {
		return cni.Errorf(cni.CodeConfig, "bridge: %w", err)
	}
	switch {
	case c.HairpinMode && c.PromiscMode:
		return cni.Errorf(cni.CodeConfig, "hairpinMode and promiscMode exclude each other")
	case c.DisableContainerInterface && c.IPAM.Type != "":
		return cni.Errorf(cni.CodeConfig, "disableContainerInterface and ipam exclude each other: an interface that is down needs no address")
	case c.MTU < 0 || c.MTU > 65535 || c.MTU > 0 && c.MTU < 68:
		return cni.Errorf(cni.CodeConfig, "mtu %d: it must be 68 to 65535", c.MTU)
	case c.IPMasqBackend != "" && c.IPMasqBackend != "nftables" && c.IPMasqBackend != iptables:
		return cni.Errorf(cni.CodeConfig, "ipMasqBackend %q: this plugin has nftables only", c.IPMasqBackend)
	}
	if _, err := c.mac(); err != nil {
		return cni.Errorf(cni.CodeConfig, "mac: %w", err)
	}
	return c.checkVLANs()
}

// tell logs what the configuration's user should know.
func (c *Config) tell(log *slog.Logger) {
	if c.IPMasq && c.IPMasqBackend == iptables {
		log.Warn("ipMasqBackend iptables: masquerading is in nftables, which this plugin always uses", "table", c.NFTTable)
	}
}

func (c *Config) checkVLANs() error {
	if c.VLAN < 0 || c.VLAN > maxVLAN {
		return cni.Errorf(cni.CodeConfig, "vlan %d: it must be 0 to %d", c.VLAN, maxVLAN)
	}
	for i, t := range c.VLANTrunk {
		if _, err := t.ids(); err != nil {
			return cni.Errorf(cni.CodeConfig, "vlanTrunk[%d]: %w", i, err)
		}
	}
	if name := c.gatewayName(); c.IsGateway && len(name) > cniname.MaxInterfaceName {
		return cni.Errorf(cni.CodeConfig, "bridge %q with vlan %d: the gateway's interface would be %q, which has more than %d bytes",
			c.Bridge, c.VLAN, name, cniname.MaxInterfaceName)
	}
	return nil
}

// idRange is the VLAN ids from first to last.
type idRange struct{ first, last uint16 }

// ids returns what the entry names: a range, a single id, or both.
func (t Trunk) ids() (out []idRange, err error) {
	add := func(first, last *int) error {
		for _, id := range []*int{first, last} {
			if *id < 1 || *id > maxVLAN {
				return fmt.Errorf("id %d: it must be 1 to %d", *id, maxVLAN)
			}
		}
		if *first > *last {
			return fmt.Errorf("minID %d exceeds maxID %d", *first, *last)
		}
		out = append(out, idRange{uint16(*first), uint16(*last)})
		return nil
	}
	switch {
	case t.MinID != nil && t.MaxID != nil:
		err = add(t.MinID, t.MaxID)
	case t.MinID != nil:
		err = fmt.Errorf("minID %d: maxID is missing", *t.MinID)
	case t.MaxID != nil:
		err = fmt.Errorf("maxID %d: minID is missing", *t.MaxID)
	case t.ID == nil:
		err = fmt.Errorf("it names neither id nor minID and maxID")
	}
	if err == nil && t.ID != nil {
		err = add(t.ID, t.ID)
	}
	return out, err
}

// filtersVLANs reports whether the bridge needs VLAN filtering.
func (c *Config) filtersVLANs() bool { return c.VLAN != 0 || len(c.VLANTrunk) > 0 }

// native returns the VLAN of a port's untagged frames, or 0.
func (c *Config) native() uint16 {
	if c.VLAN == 0 && len(c.VLANTrunk) > 0 {
		return 1
	}
	return uint16(c.VLAN)
}

// gatewayName returns the name of the interface that has the gateway's addresses.
func (c *Config) gatewayName() string {
	if c.VLAN == 0 {
		return c.Bridge
	}
	return c.Bridge + "." + strconv.Itoa(c.VLAN)
}

func (c *Config) mac() (net.HardwareAddr, error) {
	if c.MAC == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(c.MAC)
	switch {
	case err != nil:
		return nil, err
	case len(mac) != 6:
		return nil, fmt.Errorf("%s is not an Ethernet address", c.MAC)
	case mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00":
		return nil, fmt.Errorf("%s is not the address of one interface", c.MAC)
	}
	return mac, nil
}

// identity names everything that belongs to an attachment.
type identity struct {
	owner string // of nftables elements
	host  string // the host end of the pair
	alias string // of that end
}

func identify(network string, a cni.Attachment) identity {
	owner := nft.Owner(network, a.String())
	return identity{owner: owner, host: a.HostName("veth", network), alias: aliasPrefix + owner}
}

// Prefixes of the aliases of host ends: the second if the pair only awaits its
// removal, the third for the port of a VLAN's gateway.
const (
	aliasPrefix   = "nodekit:"
	leavingPrefix = "nodekit-leaving:"
	gatewayPrefix = "nodekit-gateway:"
)

func (id identity) leaving() string { return leavingPrefix + id.owner }

// owns reports whether a host end with the alias belongs to the attachment. So does
// one without an alias: somebody removed it, or an older version created the pair.
func (id identity) owns(alias string) bool {
	return alias == "" || alias == id.alias || alias == id.leaving()
}

// ownerOf returns the owner that the alias names, or "".
func ownerOf(alias string) (owner string, leaving bool) {
	if owner, ok := strings.CutPrefix(alias, leavingPrefix); ok {
		return owner, true
	}
	owner, ok := strings.CutPrefix(alias, aliasPrefix)
	if !ok {
		owner = ""
	}
	return owner, false
}

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
	// Bridge is the name of the bridge, which is made when it is missing. The
	// default is "cni0".
	Bridge string `json:"bridge"`
	// IsGateway gives the bridge the gateway's address of every subnet; with VLAN
	// it is the VLAN's own interface "<bridge>.<vlan>" that gets them.
	IsGateway bool `json:"isGateway"`
	// IsDefaultGateway implies IsGateway and adds a default route to it, for each
	// address family that IPAM gave no default route in the main table.
	IsDefaultGateway bool `json:"isDefaultGateway"`
	// ForceAddress replaces other addresses of the bridge by the gateway's: of
	// IPv4 all, of IPv6 those of an overlapping subnet. Without it an address of an
	// overlapping subnet is an error.
	ForceAddress bool `json:"forceAddress"`
	// IPMasq translates the source of what leaves by another interface than the
	// bridge, multicast excepted.
	IPMasq bool `json:"ipMasq"`
	// IPMasqBackend is "nftables", "iptables" or empty. All three mean nftables,
	// which works beside rules of iptables; for "iptables" a line in the log says so.
	IPMasqBackend string `json:"ipMasqBackend"`
	// NFTTable is the name of the bridge's nftables tables, by default "cni-" and
	// the bridge's name.
	NFTTable string `json:"nftTable"`
	// MTU of the pair and the bridge; 0 is the kernel's default.
	MTU int `json:"mtu"`
	// HairpinMode lets the bridge send a packet back by the port it came from.
	HairpinMode bool `json:"hairpinMode"`
	// PromiscMode makes the bridge promiscuous. It excludes HairpinMode.
	PromiscMode bool `json:"promiscMode"`
	// VLAN is the one that the container's untagged frames belong to; 0 is none.
	VLAN int `json:"vlan"`
	// VLANTrunk are VLANs whose tagged frames the container gets. Its untagged ones
	// belong to VLAN, or to VLAN 1 when that is 0.
	VLANTrunk []Trunk `json:"vlanTrunk"`
	// PreserveDefaultVLAN leaves a port with VLAN or VLANTrunk in the bridge's
	// default VLAN as well.
	PreserveDefaultVLAN bool `json:"preserveDefaultVlan"`
	// MACSpoofCheck drops frames of the container that have another source address
	// than its interface.
	MACSpoofCheck bool `json:"macspoofchk"`
	// EnableDAD makes ADD wait for the kernel to look for another owner of the IPv6
	// addresses, 2 seconds and longer. Otherwise IPAM's word counts, and the bridge that
	// the ADD brings up uses its link-local address at once, too.
	EnableDAD bool `json:"enabledad"`
	// DisableContainerInterface leaves the container's end down and without
	// addresses. It excludes IPAM.
	DisableContainerInterface bool `json:"disableContainerInterface"`
	// PortIsolation keeps containers with it from each other; the host and ports
	// without it reach them.
	PortIsolation bool      `json:"portIsolation"`
	IPAM          cni.IPAM  `json:"ipam"`
	DNS           types.DNS `json:"dns"`
	// MAC is the address of the container's end; the kernel's choice when empty.
	MAC string `json:"-" cni:"mac,MAC"`
}

// Trunk is an id of a VLAN, or the ids from the least to the greatest.
type Trunk struct {
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
	ID    *int `json:"id"`
}

// iptables is the IPMasqBackend that is taken and not used.
const iptables = "iptables"

// maxVLAN is the greatest id of a VLAN.
const maxVLAN = 4094

// complete puts defaults in and refuses what cannot work together.
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

// tell writes what the user of the configuration should know.
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

// idRange is the ids of VLANs from first to last.
type idRange struct{ first, last uint16 }

// ids returns what the entry names: a range, an id, or both.
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

// filtersVLANs reports whether the bridge must keep VLANs apart.
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

// identity is what names everything that belongs to an attachment.
type identity struct {
	owner string // of nftables elements
	host  string // the host's end of the pair
	alias string // of that end
}

func identify(network string, a cni.Attachment) identity {
	owner := nft.Owner(network, a.String())
	return identity{owner: owner, host: a.HostName("veth", network), alias: aliasPrefix + owner}
}

// The aliases of host's ends begin so; the second when the rest is only to be
// removed, the third for the port of a VLAN's gateway.
const (
	aliasPrefix   = "nodekit:"
	leavingPrefix = "nodekit-leaving:"
	gatewayPrefix = "nodekit-gateway:"
)

func (id identity) leaving() string { return leavingPrefix + id.owner }

// owns reports whether a host's end with the alias is the attachment's. One
// without an alias is: somebody took it away, or an older version made it.
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

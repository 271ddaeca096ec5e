// Package bridge is the bridge CNI plugin (specification 1.1.0): it connects a
// container to a bridge on the host by a veth pair, with addresses of an IPAM
// plugin, and masquerades what leaves the bridge.
//
// The keys are those of the upstream plugin of the same name, of which vlan,
// vlanTrunk, macspoofchk, portIsolation, forceAddress, enabledad and
// disableContainerInterface are refused by name. Masquerading is nftables over
// netlink: one table for each bridge, one rule for each address family and one
// set element for each address, so the cost does not grow with containers.
//
// The host's end of the pair has a name that follows from the network, the
// container and the interface, and set elements carry their owner. So DEL needs
// neither the network namespace nor prevResult, and cleans up what an ADD that
// was killed half-way left behind.
//
// The bridge and its table are shared and outlive every attachment; Teardown
// removes them. net.ipv4.ip_forward (and the IPv6 one) is switched on when a
// gateway or masquerading needs it, and never off.
//
// Calls of any number of processes may overlap.
package bridge

import (
	"crypto/sha256"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
)

// Config is the plugin's part of a network configuration.
type Config struct {
	// Bridge is the name of the bridge, which is made when it is missing. The
	// default is "cni0".
	Bridge string `json:"bridge"`
	// IsGateway gives the bridge the gateway's address of every subnet.
	IsGateway bool `json:"isGateway"`
	// IsDefaultGateway implies IsGateway and adds a default route to it, for each
	// address family that IPAM gave no default route.
	IsDefaultGateway bool `json:"isDefaultGateway"`
	// IPMasq translates the source of what leaves by another interface than the
	// bridge, multicast excepted.
	IPMasq bool `json:"ipMasq"`
	// IPMasqBackend is "nftables" or empty. There is no other.
	IPMasqBackend string `json:"ipMasqBackend"`
	// NFTTable is the nftables table (family inet) of this bridge, by default
	// "cni-" and the bridge's name.
	NFTTable string `json:"nftTable"`
	// MTU of the pair and of a bridge that is made; 0 is the kernel's default.
	MTU int `json:"mtu"`
	// HairpinMode lets the bridge send a packet back by the port it came from.
	HairpinMode bool `json:"hairpinMode"`
	// PromiscMode makes the bridge promiscuous. It excludes HairpinMode.
	PromiscMode bool      `json:"promiscMode"`
	IPAM        cni.IPAM  `json:"ipam"`
	DNS         types.DNS `json:"dns"`
	// RuntimeConfig holds the capability "mac".
	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
}

// Plugin returns the plugin, under its usual name "bridge".
func Plugin() *cni.Plugin {
	return cni.New("bridge", cni.Handlers[Config]{Add: add, Del: del, Check: check, GC: gc, Status: status})
}

// complete puts defaults in and refuses what cannot work together.
func (c *Config) complete() error {
	if c.Bridge == "" {
		c.Bridge = "cni0"
	}
	if c.NFTTable == "" {
		c.NFTTable = "cni-" + c.Bridge
	}
	c.IsGateway = c.IsGateway || c.IsDefaultGateway
	switch {
	case len(c.Bridge) > 15:
		return cni.Errorf(cni.CodeConfig, "bridge %q: an interface name has at most 15 bytes", c.Bridge)
	case c.HairpinMode && c.PromiscMode:
		return cni.Errorf(cni.CodeConfig, "hairpinMode and promiscMode exclude each other")
	case c.MTU < 0 || c.MTU > 65535 || c.MTU > 0 && c.MTU < 68:
		return cni.Errorf(cni.CodeConfig, "mtu %d: it must be 68 to 65535", c.MTU)
	case c.IPMasqBackend != "" && c.IPMasqBackend != "nftables":
		return cni.Errorf(cni.CodeConfig, "ipMasqBackend %q: this plugin has nftables only", c.IPMasqBackend)
	}
	if _, err := c.mac(); err != nil {
		return cni.Errorf(cni.CodeConfig, "runtimeConfig.mac: %w", err)
	}
	return nil
}

func (c *Config) mac() (net.HardwareAddr, error) {
	if c.RuntimeConfig.MAC == "" {
		return nil, nil
	}
	return net.ParseMAC(c.RuntimeConfig.MAC)
}

// hostName returns the name of the host's end of an attachment's pair.
func hostName(network string, a cni.Attachment) string {
	sum := sha256.Sum256([]byte(network + "/" + a.String()))
	return fmt.Sprintf("veth%x", sum[:5])
}

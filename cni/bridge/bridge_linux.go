package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// ensureBridge returns the bridge, up and as configured, and creates it if necessary.
func (h *host) ensureBridge(c *Config) (*rtnl.Link, error) {
	br, err := h.links.Link(c.Bridge)
	if errors.Is(err, fault.NotFound) {
		br, err = h.makeBridge(c)
	}
	if err != nil {
		return nil, withoutVLANs(c, fmt.Errorf("bridge %q: %w", c.Bridge, err))
	}
	if br.Kind != "bridge" {
		return nil, wrongKind(br)
	}
	return br, withoutVLANs(c, h.mend(br, c))
}

// withoutVLANs explains the error of a kernel that lacks VLAN filtering.
func withoutVLANs(c *Config, err error) error {
	if c.filtersVLANs() && errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel has no bridges that keep VLANs apart (CONFIG_BRIDGE_VLAN_FILTERING), which vlan and vlanTrunk need: %w", err)
	}
	return err
}

func wrongKind(l *rtnl.Link) error {
	kind := l.Kind
	if kind == "" {
		kind = "device"
	}
	return cni.Errorf(cni.CodeConfig, "bridge %q: an interface of this name exists and is a %s", l.Name, kind)
}

// makeBridge creates the bridge with a MAC address of its own: otherwise it would
// take that of a port, and change it as ports come and go. It stays down until
// everything else is done (mend), so a bridge that is up is complete. If another ADD
// is faster, its bridge is as good.
func (h *host) makeBridge(c *Config) (*rtnl.Link, error) {
	err := h.links.Do(rtnl.AddBridge(c.Bridge, c.MTU, newMAC(), c.filtersVLANs()))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return h.links.Link(c.Bridge)
}

// newMAC returns a locally administered unicast address. It is no secret, and the
// generator that Go has at hand costs an executed plugin less than crypto/rand.
func newMAC() net.HardwareAddr {
	mac := binary.NativeEndian.AppendUint64(nil, rand.Uint64())[:6]
	mac[0] = mac[0]&^1 | 2
	return mac
}

// mend changes an existing bridge to what the configuration asks for, as far as that
// harms no other user of it.
func (h *host) mend(br *rtnl.Link, c *Config) error {
	var changes []func() error
	if c.PromiscMode && !br.Promisc {
		changes = append(changes, func() error { return h.links.Do(rtnl.Promisc(br)) })
	}
	if c.MTU > 0 && br.MTU != c.MTU {
		changes = append(changes, func() error { return h.mendMTU(br, c.MTU) })
	}
	if c.filtersVLANs() && !br.VLANFiltering {
		changes = append(changes, func() error { return h.mendFiltering(br) })
	}
	if !br.Up { // last; no route was ever learned through a bridge that was never up
		changes = append(changes,
			func() error { return ignoreAdvertisements(br.Name) },
			func() error { return useAtOnce(br.Name, c) },
			func() error { return h.links.Do(rtnl.Up(br)) })
	}
	for _, change := range changes {
		if err := change(); err != nil {
			return err
		}
	}
	return nil
}

// refuses returns the reason why mend could not make the bridge what the
// configuration asks for, without changing anything.
func (h *host) refuses(br *rtnl.Link, c *Config) error {
	if br.Kind != "bridge" {
		return wrongKind(br)
	}
	if c.MTU > br.MTU {
		if err := h.refusesMTU(br, c.MTU); err != nil {
			return err
		}
	}
	if c.filtersVLANs() && !br.VLANFiltering {
		return h.refusesFiltering(br)
	}
	return nil
}

// mendMTU lowers the MTU at any time; it raises it only while no port of the bridge has
// an MTU below the new one.
func (h *host) mendMTU(br *rtnl.Link, mtu int) error {
	if mtu > br.MTU {
		if err := h.refusesMTU(br, mtu); err != nil {
			return err
		}
	}
	if err := h.links.Do(rtnl.SetMTU(br, mtu)); err != nil {
		return err
	}
	br.MTU = mtu
	return nil
}

func (h *host) refusesMTU(br *rtnl.Link, mtu int) error {
	ports, err := h.links.Ports(br.Index)
	if err != nil {
		return err
	}
	for _, p := range ports {
		if p.MTU < mtu {
			return cni.Errorf(cni.CodeConfig, "mtu %d: bridge %q has %d, and its port %q no more than %d: use that, or another bridge", mtu, br.Name, br.MTU, p.Name, p.MTU)
		}
	}
	return nil
}

// mendFiltering enables VLAN filtering while the bridge has no ports: one could rely on
// tagged frames being forwarded.
func (h *host) mendFiltering(br *rtnl.Link) error {
	if err := h.refusesFiltering(br); err != nil {
		return err
	}
	return h.links.Do(rtnl.FilterVLANs(br))
}

func (h *host) refusesFiltering(br *rtnl.Link) error {
	ports, err := h.links.Ports(br.Index)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		return cni.Errorf(cni.CodeConfig, "vlan: bridge %q does not filter VLANs, and switching that on could cut its %d ports off: "+
			"do it (ip link set %s type bridge vlan_filtering 1) or use another bridge", br.Name, len(ports), br.Name)
	}
	return nil
}

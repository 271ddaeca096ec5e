// Package bridge is the bridge CNI plugin (specification 1.1.0): it connects a
// container to a bridge on the host by a veth pair, with addresses from an IPAM
// plugin, and masquerades traffic that leaves the bridge.
//
// The configuration keys are those of the upstream plugin of the same name, and
// nftTable.
//
// # State in the kernel
//
// The host end of the pair has a name derived from the network, the container and the
// interface, and an alias that spells these out. Masquerading is nftables over
// netlink: a table for each bridge (family inet), one rule for each address family
// and one set element for each address, so the cost does not grow with the number of
// containers. An index in the same table maps the host end to the addresses.
// macspoofchk has a table of the same name in the bridge family. All elements carry
// their owner. So DEL needs neither the network namespace nor prevResult, lists
// nothing, and cleans up what a killed ADD left behind; and GC finds what belongs to
// a network.
//
// Other programs flush rules, and a runtime may never call CHECK. So every ADD looks
// for the rules, and STATUS does if there is a table: rules that are missing or were
// made by another version are created anew. Only Repair restores lost elements. A
// table serves only one bridge.
//
// The bridge, its tables and the gateways of its VLANs (veth pairs whose host end is
// called "<bridge>.<vlan>") are shared and outlive every attachment; Teardown removes
// them. net.ipv4.ip_forward (and its IPv6 counterpart) is switched on when a gateway
// or masquerading needs it, and never switched off.
//
// # While a removal is pending
//
// The kernel takes 15 to 30 ms to remove a pair, however many are removed at a time.
// Plugin waits for that. A long-running process uses Resident, whose DEL returns when
// the attachment has no effect any more; the pairs of many DELs are removed together
// a moment later, unless their namespaces are deleted first. In between
//   - the bridge drops every frame from and to the container, and no rule names
//     it: its addresses can be given to another container at once;
//   - the interface is still visible in the container, and the host end among the
//     bridge's ports, disabled and with an alias that begins with "nodekit-leaving:";
//   - an ADD of the same attachment, by any process, first finishes the removal; so
//     do another DEL, GC and Teardown;
//   - CHECK fails;
//   - if the process is killed, the pair remains until one of these calls or the end
//     of the namespace.
//
// Calls from any number of processes may overlap.
package bridge

import (
	"github.com/nodekit-project/nodekit/cni"
)

// Plugin returns the plugin, under its usual name "bridge". It keeps nothing between
// calls, and a DEL returns when everything is removed.
func Plugin() *cni.Plugin { return newPlugin(&plugin{}) }

// Resident returns the plugin for a long-running process: it keeps its sockets, and a
// DEL does not wait for the kernel (see the package comment). The returned function
// waits for pending removals and closes the sockets; call it when no other call is
// running.
func Resident() (*cni.Plugin, func() error) {
	p := &plugin{stays: newResident()}
	return newPlugin(p), p.stays.close
}

func newPlugin(p *plugin) *cni.Plugin {
	out := cni.New("bridge", cni.Handlers[Config]{
		Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status, Repair: p.repair,
	})
	// An existing interface is refused by add, which can tell it from a pending
	// removal and does so before it calls IPAM.
	out.Adjusts = true
	return out
}

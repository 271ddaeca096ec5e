// Package bridge is the bridge CNI plugin (specification 1.1.0): it connects a
// container to a bridge on the host by a veth pair, with addresses of an IPAM
// plugin, and masquerades what leaves the bridge.
//
// The keys are those of the upstream plugin of the same name, and nftTable.
//
// # What is where
//
// The host's end of the pair has a name that follows from the network, the
// container and the interface, and an alias that says them in words. Masquerading
// is nftables over netlink: a table for each bridge (family inet), one rule for
// each address family and one set element for each address, so the cost does not
// grow with containers. An index in the same table leads from the host's end to
// the addresses. macspoofchk has a table of the same name in the family bridge.
// All elements carry their owner. So DEL needs neither the network namespace nor
// prevResult, lists nothing, and cleans up what an ADD that was killed half-way
// left behind; and GC finds what belongs to a network.
//
// Others flush rules, and a runtime may never call CHECK. So ADD looks for the
// rules each time, and STATUS does when there is a table: what is missing, or was
// made by another version, is made anew. Elements that were lost are put back by
// Repair alone. One table is for one bridge.
//
// The bridge, its tables and the gateways of its VLANs (pairs whose host's end is
// called "<bridge>.<vlan>") are shared and outlive every attachment; Teardown
// removes them. net.ipv4.ip_forward (and the IPv6 one) is switched on when a
// gateway or masquerading needs it, and never off.
//
// # While a removal is pending
//
// The kernel takes 15 to 30 ms to remove a pair, however many go at a time.
// Plugin waits for that. A process that stays uses Resident, whose DEL returns
// when the attachment is without effect, and removes the pairs of many together
// a moment later, unless their namespaces go first. Between the two
//   - the bridge drops every frame from and to the container, and no rule names
//     it: its addresses can be given to another container at once;
//   - the interface is still seen in the container, and the host's end among the
//     bridge's ports, disabled and with an alias that begins with "nodekit-leaving:";
//   - an ADD of the same attachment, by whichever process, first finishes the
//     removal; so do another DEL, GC and Teardown;
//   - CHECK fails;
//   - a process that is killed leaves the pair to these, or to the end of the
//     namespace.
//
// Calls of any number of processes may overlap.
package bridge

import (
	"github.com/nodekit-project/nodekit/cni"
)

// Plugin returns the plugin, under its usual name "bridge". It keeps nothing
// between calls, and a DEL ends when all is gone.
func Plugin() *cni.Plugin { return newPlugin(&plugin{}) }

// Resident returns the plugin for a process that stays: it keeps its sockets,
// and a DEL does not wait for the kernel (see the package's comment). The
// function waits for the removals under way and closes the sockets; call it when
// no other call runs any more.
func Resident() (*cni.Plugin, func() error) {
	p := &plugin{stays: newResident()}
	return newPlugin(p), p.stays.close
}

func newPlugin(p *plugin) *cni.Plugin {
	out := cni.New("bridge", cni.Handlers[Config]{
		Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status, Repair: p.repair,
	})
	// An interface that exists is refused here, where a removal that is pending
	// can be told from it, and before IPAM is asked.
	out.Adjusts = true
	return out
}

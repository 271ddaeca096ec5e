// Package portmap is the portmap CNI plugin (specification 1.1.0, convention
// portMappings): it forwards ports of the host to a container, as a chained
// plugin behind the one that made the interface.
//
// Port mappings are elements of nftables maps, programmed over netlink: a fixed
// number of rules, however many mappings there are, and no program is executed.
// Only packets to an address of this host are forwarded, whether they come from
// outside, from another container or from the host itself; what merely passes
// through the host never is.
//
// With snat (the default) connections that would be answered behind the host's
// back are masqueraded: those of the container to its own mapping, and those that
// leave by the interface that they came by, as its neighbours' on a bridge do.
// (Where br_netfilter tracks a bridge's frames, neighbours are answered through
// the host anyway and keep their address.) This needs Linux 5.7.
//
// With snat the host's own connections to 127.0.0.1 are forwarded, too, for which
// the host's interface towards the container is opened to such addresses
// (route_localnet). The table has guarded it by then against packets from or to
// 127.0.0.0/8 that others send; Teardown closes it before the guard goes. Other
// addresses of 127.0.0.0/8 are left to the host's own servers unless a mapping
// names one as its hostIP, and ::1 is never forwarded: Linux has no route from
// there.
//
// A host port belongs to one container at a time; a second one is refused, also
// when both come at the same moment. Protocols, and IPv4 and IPv6, have ports of
// their own, and a mapping of every address takes the port of each. Runtimes give a
// container's mappings to each of its networks: the first ADD has the port, the
// others succeed without it, and after a DEL of the first alone CHECK of another
// fails until Repair gives it the port. Elements carry their owner, so DEL needs
// neither prevResult nor runtimeConfig.
//
// Others flush rules, and a runtime may never call CHECK. So ADD looks for the
// rules each time, and STATUS does when there is a table: what is missing, or was
// made by another version, is made anew.
//
// Configurations for upstream's portmap v1.9.1 work, in both of its dialects, but
// for three keys that are refused by name. conditionsV4 and conditionsV6 are words
// for iptables or nft, neither of which is executed, and a mapping without its
// condition would open a port that was to be closed: name an address in hostIP, or
// drop the rest in a chain of nftables of your own, with hook prerouting and
// priority mangle. externalSetMarkChain names a chain of iptables, to which nothing
// of this plugin could jump: leave it out, the plugin masquerades by itself.
package portmap

import (
	"github.com/nodekit-project/nodekit/cni"
)

// Plugin returns the plugin, under its usual name "portmap". It keeps nothing between
// calls.
func Plugin() *cni.Plugin { return newPlugin(&plugin{}) }

// Resident returns the plugin for a process that stays: it keeps its sockets, whose
// close waits for the kernel after a DEL (10 ms, measured on Linux 6.18). The function
// closes them; call it when no other call runs any more.
func Resident() (*cni.Plugin, func() error) {
	p := newResident()
	return newPlugin(p), p.close
}

func newPlugin(p *plugin) *cni.Plugin {
	out := cni.New("portmap", cni.Handlers[Config]{
		Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status, Repair: p.repair,
	})
	out.Adjusts = true
	return out
}

// Package portmap is the portmap CNI plugin (specification 1.1.0, convention
// portMappings): it forwards host ports to a container, as a plugin chained after the
// one that created the interface.
//
// Port mappings are elements of nftables maps, programmed over netlink: the number of
// rules is fixed, however many mappings there are, and no program is executed. Only
// packets to an address of this host are forwarded, whether they come from outside,
// from another container or from the host itself; traffic that is merely routed
// through the host never is.
//
// With snat (the default), connections whose replies would bypass the host are
// masqueraded: those of the container to its own mapping, and those that leave by the
// interface by which they came, such as a neighbour's on a bridge. (If br_netfilter
// tracks a bridge's frames, replies to neighbours pass through the host anyway, and
// neighbours keep their address.) This needs Linux 5.7.
//
// With snat the host's own connections to 127.0.0.1 are forwarded too. For this the
// host's interface towards the container is opened to such addresses
// (route_localnet), but only after the table guards it against packets from or to
// 127.0.0.0/8 that others send; Teardown closes the interface before it removes the
// guard. Other addresses of 127.0.0.0/8 are left to the host's own servers unless a
// mapping names one as its hostIP, and ::1 is never forwarded: Linux does not route
// packets from there.
//
// A host port belongs to one container at a time; a second one is refused, even if
// both come at the same moment. Each protocol, and IPv4 and IPv6, has ports of its
// own; a mapping of every address takes the port of both families. Runtimes pass a
// container's mappings to each of its networks: the first ADD gets the port and the
// others succeed without it; after a DEL of only the first, CHECK of another fails
// until Repair gives it the port. Elements carry their owner, so DEL needs neither
// prevResult nor runtimeConfig.
//
// Other programs flush rules, and a runtime may never call CHECK. So every ADD looks
// for the rules, and STATUS does if there is a table: rules that are missing or were
// made by another version are created anew.
//
// Configurations for the upstream portmap v1.9.1 work, in both of its dialects,
// except for three keys that are refused by name. conditionsV4 and conditionsV6 are
// arguments for iptables or nft, neither of which is executed, and a mapping without
// its condition would open a port that was to be closed: name an address in hostIP,
// or drop other packets in an nftables chain of your own, with hook prerouting and
// priority mangle. externalSetMarkChain names an iptables chain, to which nothing in
// this plugin could jump: leave it out, the plugin masquerades by itself.
package portmap

import (
	"github.com/nodekit-project/nodekit/cni"
)

// Plugin returns the plugin, under its usual name "portmap". It keeps nothing between
// calls.
func Plugin() *cni.Plugin { return newPlugin(&plugin{}) }

// Resident returns the plugin for a long-running process: it keeps its sockets,
// because closing one waits for the kernel after a DEL (10 ms, measured on Linux
// 6.18). The returned function closes them; call it when no other call is running.
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

// Package hostlocal is the host-local IPAM plugin: it hands out addresses of
// configured ranges and keeps the reservations in files on this host (CNI
// specification 1.1.0, section 4).
//
// The files are those of the upstream plugin of the same name: one per address
// below dataDir/<network>, named by the address, with the container id and the
// interface name inside. Either program can follow the other at any time. What
// upstream's does not know stays out of its way: an extended attribute with the
// boot, files that begin with a dot, and an index that makes a call's time
// independent of the number of reservations. The index is never the truth.
//
// # Configuration
//
// Below "ipam", upstream's keys: ranges (one list for each address that an
// attachment gets) with subnet, rangeStart, rangeEnd and gateway, or one range in
// ipam itself; routes, with all attributes of CNI 1.1.0; dataDir; resolvConf, a
// file that becomes the result's dns. Sets of runtimeConfig.ipRanges come before
// them. An address is asked for by runtimeConfig.ips, else args.cni.ips, else IP
// in CNI_ARGS, and is that one or an error.
//
// Two keys more: exclude, in a range or for all, takes out addresses, "first-last"
// and subnets; reuseDelay ("30s") is how long an address that was released is
// passed over while another one is free. The search goes round in any case.
//
// The subnet's own address, IPv4's broadcast address and the gateway are not
// handed out. In a /31 or /127 both addresses are, and in a /32 or /128 the one
// (RFC 3021, RFC 6164); those have a gateway only if the configuration names one,
// which for a single address may be outside. Any gateway may be link-local. The
// subnet must not have host bits.
//
// A mistake is an error of code 7 that names the key. An ADD that finds nothing
// free has code 101, and STATUS then code 50, as it has where no ADD could make the
// directory.
//
// # Crashes
//
// A reservation appears whole or not at all, so a kill -9 never loses an
// address: DEL or GC finds what it left. A file that a crashed writer of another
// program left empty is put aside, and its address is free again; one that is
// damaged in another way keeps its address back. Both are reported to the log,
// by CHECK, STATUS and the list for people, and never passed over in silence.
//
// Nothing is synced to disk. A power failure can lose reservations, bring back
// some that were released, and leave empty files: all of them are of containers
// that died with the power, and are treated as such because of their boot.
//
// # Reboots
//
// No container outlives the kernel's boot. The reservation of an earlier boot
// still serves the container of the same name, which gets its old address, and
// otherwise counts as free for STATUS, for an ADD that asks for the address and
// for one that finds no other. GC goes by the runtime's list alone.
//
// Calls of any number of processes may overlap; a file lock per network, which
// is upstream's too, orders them.
package hostlocal

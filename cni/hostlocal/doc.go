// Package hostlocal is the host-local IPAM plugin: it assigns addresses from
// configured ranges and keeps the reservations in files on this host (CNI
// specification 1.1.0, section 4).
//
// The files are those of the upstream plugin of the same name: one per address below
// dataDir/<network>, named after the address, with the container id and the interface
// name inside. Either plugin can take over from the other at any time. What the
// upstream plugin does not know does not disturb it: an extended attribute with the
// boot, files that begin with a dot, dataDir/.spread with empty directories, from which
// new files get their places on the disk, and an index that makes the time of a call
// independent of the number of reservations. The files, not the index, are
// authoritative.
//
// # Configuration
//
// Below "ipam" are the upstream plugin's keys: ranges (one list for each address that
// an attachment gets) with subnet, rangeStart, rangeEnd and gateway, or a single
// range in ipam itself; routes, with all attributes of CNI 1.1.0; dataDir;
// resolvConf, a file that becomes the result's dns. Sets in runtimeConfig.ipRanges
// come before them. A specific address is requested by runtimeConfig.ips, else
// args.cni.ips, else IP in CNI_ARGS; if it cannot be assigned, that is an error.
//
// There are two more keys: exclude, in a range or for all ranges, excludes addresses,
// "first-last" and subnets; reuseDelay ("30s") is how long a released address is not
// assigned again while another one is free. In any case the search is round-robin.
//
// The subnet's own address, the IPv4 broadcast address and the gateway are not
// assigned. In a /31 or /127 both addresses are, and in a /32 or /128 the only one
// (RFC 3021, RFC 6164); these subnets have a gateway only if the configuration names
// one, which for a single address may be outside the subnet. Any gateway may be
// link-local. The subnet must not have host bits.
//
// A mistake in the configuration is an error of code 7 that names the key. If no
// address is free, ADD returns code 101 and STATUS code 50; STATUS returns that also
// if ADD could not create the directory.
//
// # Crashes
//
// A reservation appears whole or not at all, so a kill -9 never loses an address: DEL
// or GC finds what it left. A file that a crashed writer of another program left
// empty is quarantined, and its address is free again; a file with other damage keeps
// its address reserved. Both are reported in the log, by CHECK, by STATUS and by the
// list command, and never silently ignored.
//
// Nothing is synced to disk. A power failure can lose reservations, bring back
// released ones, and leave empty files. All of these belong to containers that died
// with the power, and are treated that way because of their boot.
//
// # Reboots
//
// No container outlives the kernel's boot. A reservation of an earlier boot still
// serves a container of the same name, which gets its old address; otherwise it
// counts as free for STATUS, for an ADD that requests the address and for one that
// finds no other. GC goes only by the runtime's list.
//
// Calls from any number of processes may overlap; a file lock per network, the same
// as the upstream plugin's, serializes them.
package hostlocal

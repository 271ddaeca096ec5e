// Package kubeletdir runs programs that assume that the kubelet's directory is
// /var/lib/kubelet, as most plugins do, on a node whose root is elsewhere: each gets
// a mount namespace of its own in which the node's root is bind-mounted there.
//
// The bind mount shares the root's peer group, so what the plugin mounts below
// /var/lib/kubelet appears below the node's root for everybody, and vice versa;
// nothing else that it mounts is visible outside. The root must be a shared mount
// (mount.MakeShared).
//
// Any number of nodes may do this on one machine at the same time.
package kubeletdir

// Path is where plugins expect the kubelet's directory.
const Path = "/var/lib/kubelet"

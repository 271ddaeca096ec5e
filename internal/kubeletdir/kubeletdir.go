// Package kubeletdir runs programs that believe that the kubelet's directory is
// /var/lib/kubelet, as most plugins do, on a node whose root is elsewhere: each
// gets a mount namespace of its own in which the node's root is bound there.
//
// The bind shares the root's peer group, so that what the plugin mounts below
// /var/lib/kubelet appears below the node's root for everybody, and the other
// way round; nothing else that it mounts is seen outside. The root must be a
// shared mount (mount.MakeShared).
//
// Any number of nodes may do this on one machine at the same time.
package kubeletdir

// Path is where plugins expect the kubelet's directory.
const Path = "/var/lib/kubelet"

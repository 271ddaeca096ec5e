// Command cni is nodekit's CNI plugins in one executable. The name that it is
// called by chooses the plugin, so it is installed under each of the names:
//
//	install cni /opt/cni/bin/bridge
//	for name in host-local portmap loopback; do ln -s bridge /opt/cni/bin/$name; done
//
// It speaks the CNI specification and no other interface; what it links is kept
// free of grpc and k8s.io, because a runtime starts it for every container.
package main

import (
	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/loopback"
	"github.com/nodekit-project/nodekit/cni/portmap"
)

func main() {
	cni.Main(bridge.Plugin(), hostlocal.Plugin(), loopback.Plugin(), portmap.Plugin())
}

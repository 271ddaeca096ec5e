// Command cni contains nodekit's CNI plugins in one executable. The name that it is
// called by selects the plugin, so it is installed under each of the names:
//
//	install cni /opt/cni/bin/bridge
//	for name in host-local portmap loopback; do ln -s bridge /opt/cni/bin/$name; done
//
// It implements the CNI specification and, with arguments, commands for people, who
// list and release addresses with it: host-local list. It must not link grpc and
// k8s.io, because a runtime starts it for every container.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/loopback"
	"github.com/nodekit-project/nodekit/cni/portmap"
)

func main() {
	if len(os.Args) > 1 && os.Getenv("CNI_COMMAND") == "" {
		if err := hostlocal.Command(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	cni.Main(bridge.Plugin(), hostlocal.Plugin(), loopback.Plugin(), portmap.Plugin())
}

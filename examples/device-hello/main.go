// Device-hello offers three devices that do nothing but greet.
// Copy this folder, rename the resource, and replace watch and allocate.
package main

import (
	"context"
	"strings"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

func main() {
	deviceplugin.Main(&deviceplugin.Plugin{
		Resource: "example.com/hello", // what Pods ask for in resources.limits
		Watch:    watch,
		Allocate: allocate,
	})
}

// watch says which devices there are. Call update with the whole list again
// whenever a device comes, goes or changes its health.
func watch(ctx context.Context, update func([]deviceplugin.Device) error) error {
	if err := update([]deviceplugin.Device{{ID: "hello-0"}, {ID: "hello-1"}, {ID: "hello-2"}}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// allocate says what a container needs to use the devices with these ids:
// device nodes, mounts, environment variables, CDI names.
func allocate(_ context.Context, ids []string) (*deviceplugin.Allocation, error) {
	return &deviceplugin.Allocation{
		Envs:  map[string]string{"HELLO": "hello from " + strings.Join(ids, " and ")},
		Nodes: []deviceplugin.Node{{HostPath: "/dev/null", ContainerPath: "/dev/hello"}},
	}, nil
}

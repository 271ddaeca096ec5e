package deviceplugin_test

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

// A plugin for two device nodes that never change, in a program that has its
// own flags and signals.
func ExampleServe() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &deviceplugin.Plugin{
		Resource: "example.com/serial",
		Watch:    deviceplugin.Static(deviceplugin.Device{ID: "ttyS0"}, deviceplugin.Device{ID: "ttyS1"}),
		Allocate: func(_ context.Context, ids []string) (*deviceplugin.Allocation, error) {
			var a deviceplugin.Allocation
			for _, id := range ids {
				a.Nodes = append(a.Nodes, deviceplugin.Node{HostPath: "/dev/" + id})
			}
			return &a, nil
		},
	}
	if err := deviceplugin.Serve(ctx, p, nil); err != nil {
		os.Exit(1)
	}
}

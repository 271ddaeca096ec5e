package gpu_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/conformance/devicesuite"
	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/deviceplugin/gpu"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

const asPlugin = "NODEKIT_TEST_GPU_PLUGIN"

// TestMain lets the test binary be the plugin that the suite starts and kills.
func TestMain(m *testing.M) {
	if state := os.Getenv(asPlugin); state != "" {
		if err := serve(state); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serve(state string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	p, err := gpu.New(gpu.Config{Root: state, StateDir: state, Simulate: 4})
	if err != nil {
		return err
	}
	return deviceplugin.Serve(ctx, p, nil) // at /var/lib/kubelet, as in a cluster
}

func TestConformance(t *testing.T) {
	testenv.Require(t, testenv.Root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	devicesuite.Test(t, devicesuite.Target{Exec: []string{self}, Env: []string{asPlugin + "=" + t.TempDir()}})
}

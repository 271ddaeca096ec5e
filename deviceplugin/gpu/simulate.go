package gpu

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

// simulate creates n character devices below dir and returns them as GPUs. It keeps
// those that an earlier process created, because containers may have them open.
func simulate(dir string, n int) ([]gpu, error) {
	dir, err := filepath.Abs(filepath.Join(dir, "dev"))
	if err != nil {
		return nil, fmt.Errorf("simulating GPUs: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("simulating GPUs: %w", err)
	}
	var out []gpu
	for i := range n {
		name := fmt.Sprintf("nodekit-gpu%d", i)
		host := filepath.Join(dir, name)
		if err := makeNull(host); err != nil {
			return nil, fmt.Errorf("simulating GPU %d: %w", i, err)
		}
		out = append(out, gpu{
			id: fmt.Sprintf("sim-%d", i), vendor: "simulated", model: "null device", numa: -1,
			nodes: []deviceplugin.Node{{HostPath: host, ContainerPath: "/dev/" + name, Permissions: "rw"}},
		})
	}
	return out, nil
}

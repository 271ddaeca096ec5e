package gpu

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/parser"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// cdiVersion is the oldest version of the CDI specification that has everything used
// here (hostPath of device nodes), so that older runtimes accept the spec.
const cdiVersion = "0.5.0"

// specOf describes the GPUs in CDI's terms; the resource's name is the kind.
func specOf(resource string, gpus []gpu) *specs.Spec {
	spec := &specs.Spec{Version: cdiVersion, Kind: resource}
	for _, g := range gpus {
		d := specs.Device{Name: g.id}
		for _, n := range g.allNodes() {
			d.ContainerEdits.DeviceNodes = append(d.ContainerEdits.DeviceNodes, &specs.DeviceNode{
				Path: n.ContainerPath, HostPath: n.HostPath, Permissions: n.Permissions,
			})
		}
		spec.Devices = append(spec.Devices, d)
	}
	return spec
}

func writeSpec(dir, resource string, gpus []gpu) error {
	raw, err := json.MarshalIndent(specOf(resource, gpus), "", "  ")
	if err != nil {
		return fmt.Errorf("writing the CDI spec of %q: %w", resource, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the CDI spec of %q: %w", resource, err)
	}
	path := filepath.Join(dir, strings.ReplaceAll(resource, "/", "-")+".json")
	if err := atomicfile.Write(path, raw, 0o644); err != nil { // the runtime may run as another user
		return fmt.Errorf("writing the CDI spec of %q: %w", resource, err)
	}
	return nil
}

// qualified returns the CDI name of a GPU.
func qualified(resource, id string) string {
	vendor, class := parser.ParseQualifier(resource)
	return parser.QualifiedName(vendor, class, id)
}

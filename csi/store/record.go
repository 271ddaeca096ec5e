package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// version is the format version of a record. Newer ones are rejected.
const version = 1

// record is the file <id>.json.
type record struct {
	Version int `json:"version"`
	// Ready is false while the volume is being created or removed.
	Ready bool `json:"ready"`
	Volume
}

func load(dir string) ([]*record, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := atomicfile.Clean(dir); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []*record
	for _, f := range files {
		r := &record{}
		raw, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(raw, r)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", f, err)
		}
		if r.Version > version {
			return nil, fault.FailedPrecondition.Errorf("%q has format version %d, and this program reads %d: use the version that wrote it", f, r.Version, version)
		}
		all = append(all, r)
	}
	return all, nil
}

func (r *record) file(dir string) string { return filepath.Join(dir, r.ID+".json") }

func (r *record) write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("recording volume %q: %w", r.ID, err)
	}
	return atomicfile.Write(r.file(dir), append(raw, '\n'), 0o600)
}

func (r *record) remove(dir string) error { return atomicfile.Remove(r.file(dir)) }

func (v *Volume) volume() *csi.Volume { return &csi.Volume{ID: v.ID, Capacity: v.Capacity} }

// answer is CreateVolume for an existing name: "if a volume corresponding to the
// specified volume name already exists [...] and is compatible", it returns the same
// volume (CSI v1.13 CreateVolume).
func (r *record) answer(want *csi.CreateRequest) (*csi.Volume, error) {
	differ := func(what string) (*csi.Volume, error) {
		return nil, fault.AlreadyExists.Errorf("volume %q exists with other %s", want.Name, what)
	}
	switch {
	case r.Ephemeral:
		return differ("lifecycle: it is ephemeral")
	case r.Capacity < want.Required || want.Limit > 0 && r.Capacity > want.Limit:
		return differ(fmt.Sprintf("capacity: it has %d bytes", r.Capacity))
	case !maps.Equal(r.Parameters, want.Parameters):
		return differ("parameters")
	case !slices.EqualFunc(r.Capabilities, want.Capabilities, sameCapability):
		return differ("capabilities")
	}
	return r.volume(), nil
}

func sameCapability(a, b csi.Capability) bool {
	return a.Block == b.Block && a.FSType == b.FSType && a.Access == b.Access && slices.Equal(a.MountFlags, b.MountFlags)
}

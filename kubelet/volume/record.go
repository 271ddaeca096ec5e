package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// recordVersion is the format version of the records below. Newer ones are rejected.
const recordVersion = 1

// recordFile is the kubelet's name for the file beside a CSI mount. This one has the
// kubelet's keys, so that tools that look for them find them, and is written
// atomically.
const recordFile = "vol_data.json"

// record describes a Pod's CSI volume, or what is staged on this node. It is written
// before the driver is called, and removed after the driver has undone the call.
type record struct {
	Version   int    `json:"nodekitVersion"`
	Driver    string `json:"driverName"`
	Handle    string `json:"volumeHandle"`
	SpecName  string `json:"specVolID"`
	Node      string `json:"nodeName"`
	Lifecycle string `json:"volumeLifecycleMode"` // "Persistent" or "Ephemeral"
	// Staging is the staging path, empty if the driver does not stage.
	Staging string `json:"nodekitStagingPath,omitempty"`
	// DoneInBoot identifies the boot in which the driver finished: NodePublishVolume in
	// a record beside a Pod's mount, NodeStageVolume in one beside a staging path.
	DoneInBoot string `json:"nodekitDoneInBoot,omitempty"`
}

func (r *record) key() string { return r.Driver + " " + r.Handle }

// readRecord returns the record in dir, or nil if there is none.
func readRecord(dir string) (*record, error) {
	r := &record{}
	if err := readJSON(filepath.Join(dir, recordFile), r); err != nil || r.Driver == "" {
		return nil, err
	}
	if r.Version > recordVersion {
		return nil, newer(filepath.Join(dir, recordFile), r.Version)
	}
	return r, nil
}

func (r *record) write(dir string) error {
	if err := makeDurable(dir); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, recordFile), r)
}

// readJSON fills v from the file, or leaves it unchanged if the file does not exist.
func readJSON(file string, v any) error {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return fmt.Errorf("reading %q: %w", file, err)
	}
	return nil
}

func writeJSON(file string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, append(raw, '\n'), 0o600)
}

func newer(file string, version int) error {
	return fault.FailedPrecondition.Errorf("%q has format version %d, and this program reads %d: use the version that wrote it", file, version, recordVersion)
}

// users returns the Pod volume directories whose records name the volume.
func (l layout) users(driver, handle string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(string(l), "pods", "*", "volumes", pluginCSI, "*", recordFile))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, f := range files {
		r, err := readRecord(filepath.Dir(f))
		if err != nil {
			return nil, err
		}
		if r != nil && r.Driver == driver && r.Handle == handle {
			dirs = append(dirs, filepath.Dir(f))
		}
	}
	return dirs, nil
}

package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// recordVersion is the version of the files below StateDir. A server refuses
// files of a newer version, because it would lose what it does not know.
const recordVersion = 1

// phase is what the SDK was about to do with an object when it last wrote the
// record: the intent that a restarted server completes.
type phase string

const (
	creating phase = "creating" // the author's create may have begun: roll back
	live     phase = "live"
	removing phase = "removing" // the author's remove may have begun: finish it
)

// sandboxRecord is the file sandboxes/ID.json. The config is kept in the wire
// format of its message, the one encoding that later versions of the CRI
// promise to read; the metadata is repeated for the people who look.
type sandboxRecord struct {
	Version   int             `json:"version"`
	Phase     phase           `json:"phase"`
	ID        string          `json:"id"`
	Pod       string          `json:"pod"`
	Config    []byte          `json:"config"`
	Handler   string          `json:"handler,omitempty"`
	CreatedAt time.Time       `json:"createdAt"`
	Ready     bool            `json:"ready"`
	IPs       []string        `json:"ips,omitempty"`
	State     json.RawMessage `json:"state,omitempty"`
}

// containerRecord is the file containers/ID.json.
type containerRecord struct {
	Version   int             `json:"version"`
	Phase     phase           `json:"phase"`
	ID        string          `json:"id"`
	SandboxID string          `json:"sandboxId"`
	Name      string          `json:"name"`
	Config    []byte          `json:"config"`
	CreatedAt time.Time       `json:"createdAt"`
	StartedAt time.Time       `json:"startedAt,omitzero"`
	Exit      *Exit           `json:"exit,omitempty"`
	ImageRef  string          `json:"imageRef"`
	LogPath   string          `json:"logPath,omitempty"`
	State     json.RawMessage `json:"state,omitempty"`
}

// records is the directory of one file per object. It keeps no state of its
// own; callers order the writes of one object.
type records struct{ dir string }

func openRecords(dir string) (records, error) {
	r := records{dir: dir}
	for _, sub := range []string{"sandboxes", "containers", "dirs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return r, fmt.Errorf("making the state directory: %w", err)
		}
		if err := atomicfile.Clean(filepath.Join(dir, sub)); err != nil {
			return r, fmt.Errorf("cleaning the state directory: %w", err)
		}
	}
	return r, nil
}

// home is the directory that the author gets as Dir.
func (r records) home(id string) string { return filepath.Join(r.dir, "dirs", id) }

func (r records) sandboxFile(id string) string {
	return filepath.Join(r.dir, "sandboxes", id+".json")
}

func (r records) containerFile(id string) string {
	return filepath.Join(r.dir, "containers", id+".json")
}

func (r records) putSandbox(s *Sandbox, p phase) error {
	config, err := proto.Marshal(s.Config)
	if err != nil {
		return fmt.Errorf("encoding the config of sandbox %q: %w", s.ID, err)
	}
	meta := s.Config.GetMetadata()
	return put(r.sandboxFile(s.ID), sandboxRecord{
		Version: recordVersion, Phase: p, ID: s.ID,
		Pod:    fmt.Sprintf("%s/%s uid %s attempt %d", meta.GetNamespace(), meta.GetName(), meta.GetUid(), meta.GetAttempt()),
		Config: config, Handler: s.Handler, CreatedAt: s.CreatedAt,
		Ready: s.Ready, IPs: s.IPs, State: s.State,
	})
}

func (r records) putContainer(c *Container, p phase) error {
	config, err := proto.Marshal(c.Config)
	if err != nil {
		return fmt.Errorf("encoding the config of container %q: %w", c.ID, err)
	}
	return put(r.containerFile(c.ID), containerRecord{
		Version: recordVersion, Phase: p, ID: c.ID, SandboxID: c.Sandbox.ID,
		Name: c.Config.GetMetadata().GetName(), Config: config,
		CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, Exit: c.Exit,
		ImageRef: c.ImageRef, LogPath: c.LogPath, State: c.State,
	})
}

func put(file string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding %q: %w", file, err)
	}
	return atomicfile.Write(file, append(data, '\n'), 0o600)
}

// loadSandboxes and loadContainers read every record. One that cannot be read
// is an error that names the file: going on without it would leak what it
// stands for.
func (r records) loadSandboxes() (all map[string]*Sandbox, phases map[string]phase, err error) {
	all, phases = map[string]*Sandbox{}, map[string]phase{}
	err = eachRecord(filepath.Join(r.dir, "sandboxes"), func(data []byte) error {
		var rec sandboxRecord
		config := &runtimeapi.PodSandboxConfig{}
		if err := decode(data, &rec, func() (int, []byte) { return rec.Version, rec.Config }, config); err != nil {
			return err
		}
		phases[rec.ID] = rec.Phase
		all[rec.ID] = &Sandbox{
			ID: rec.ID, Config: config, Handler: rec.Handler, CreatedAt: rec.CreatedAt,
			Dir: r.home(rec.ID), Ready: rec.Ready, IPs: rec.IPs, State: rec.State,
		}
		return nil
	})
	return all, phases, err
}

func (r records) loadContainers(sandboxes map[string]*Sandbox) (all map[string]*Container, phases map[string]phase, err error) {
	all, phases = map[string]*Container{}, map[string]phase{}
	err = eachRecord(filepath.Join(r.dir, "containers"), func(data []byte) error {
		var rec containerRecord
		config := &runtimeapi.ContainerConfig{}
		if err := decode(data, &rec, func() (int, []byte) { return rec.Version, rec.Config }, config); err != nil {
			return err
		}
		sandbox := sandboxes[rec.SandboxID]
		if sandbox == nil {
			return fmt.Errorf("its sandbox %q is not on record", rec.SandboxID)
		}
		phases[rec.ID] = rec.Phase
		all[rec.ID] = &Container{
			ID: rec.ID, Sandbox: sandbox, Config: config, CreatedAt: rec.CreatedAt,
			StartedAt: rec.StartedAt, Exit: rec.Exit, ImageRef: rec.ImageRef,
			LogPath: rec.LogPath, Dir: r.home(rec.ID), State: rec.State,
		}
		return nil
	})
	return all, phases, err
}

func eachRecord(dir string, read func(data []byte) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the records: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(file)
		if err == nil {
			err = read(data)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading the record %q: %w", file, err))
		}
	}
	return errors.Join(errs...)
}

func decode(data []byte, record any, fields func() (version int, config []byte), config proto.Message) error {
	if err := json.Unmarshal(data, record); err != nil {
		return err
	}
	version, wire := fields()
	if version != recordVersion {
		return fmt.Errorf("it has version %d and this program knows version %d: use the program that wrote it", version, recordVersion)
	}
	return proto.Unmarshal(wire, config)
}

func (r records) removeSandbox(id string) error { return r.remove(id, r.sandboxFile(id)) }

func (r records) removeContainer(id string) error { return r.remove(id, r.containerFile(id)) }

// remove deletes the object's directory and then its record, so that a crash
// between the two leaves a record that says what to finish.
func (r records) remove(id, file string) error {
	home := r.home(id)
	if left, err := mount.Below(home); err != nil && !errors.Is(err, mount.ErrUnsupported) {
		return err
	} else if len(left) > 0 {
		return fmt.Errorf("removing the directory of %q: %q is still mounted, and what it shows must not be deleted", id, left[0])
	}
	if err := os.RemoveAll(home); err != nil {
		return fmt.Errorf("removing the directory of %q: %w", id, err)
	}
	return atomicfile.Remove(file)
}

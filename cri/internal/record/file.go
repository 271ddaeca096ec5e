package record

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/bootid"
)

// version is that of a line. A server refuses lines of a newer version, because it would
// lose what it does not know. Files of version 1 have a single line.
const version = 2

// sandboxFile is a line of the file sandboxes/ID.json. The config is kept in the wire
// format of its message, the one encoding that later versions of the CRI promise to read;
// the metadata is repeated for human readers.
type sandboxFile struct {
	Version   int             `json:"version"`
	Phase     Phase           `json:"phase"`
	ID        string          `json:"id"`
	Pod       string          `json:"pod"`
	Config    []byte          `json:"config"`
	Handler   string          `json:"handler,omitempty"`
	CreatedAt time.Time       `json:"createdAt"`
	Ready     bool            `json:"ready"`
	IPs       []string        `json:"ips,omitempty"`
	State     json.RawMessage `json:"state,omitempty"`
}

// containerFile is a line of the file containers/ID.json.
type containerFile struct {
	Version   int       `json:"version"`
	Phase     Phase     `json:"phase"`
	ID        string    `json:"id"`
	SandboxID string    `json:"sandboxId"`
	Name      string    `json:"name"`
	Config    []byte    `json:"config"`
	CreatedAt time.Time `json:"createdAt"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	Exit      *Exit     `json:"exit,omitempty"`
	ImageRef  string    `json:"imageRef"`
	LogPath   string    `json:"logPath,omitempty"`
	User      []byte    `json:"user,omitempty"` // as Config
	// Signal is the stop signal as its number in the CRI's enum.
	Signal runtimeapi.Signal `json:"stopSignal,omitempty"`
	State  json.RawMessage   `json:"state,omitempty"`
}

// PutSandbox and PutContainer write the record.
func (d *Dir) PutSandbox(s *Sandbox, p Phase) error {
	config, err := proto.Marshal(s.Config)
	if err != nil {
		return fmt.Errorf("encoding the config of sandbox %q: %w", s.ID, err)
	}
	meta := s.Config.GetMetadata()
	return d.put(d.sandboxFile(s.ID), sandboxFile{
		Version: version, Phase: p, ID: s.ID,
		Pod:    fmt.Sprintf("%s/%s uid %s attempt %d", meta.GetNamespace(), meta.GetName(), meta.GetUid(), meta.GetAttempt()),
		Config: config, Handler: s.Handler, CreatedAt: s.CreatedAt,
		Ready: s.Ready, IPs: s.IPs, State: s.State,
	})
}

// PutContainer is PutSandbox for containers.
func (d *Dir) PutContainer(c *Container, p Phase) error {
	config, err := proto.Marshal(c.Config)
	if err != nil {
		return fmt.Errorf("encoding the config of container %q: %w", c.ID, err)
	}
	user, err := proto.Marshal(c.User)
	if err != nil {
		return fmt.Errorf("encoding the user of container %q: %w", c.ID, err)
	}
	return d.put(d.containerFile(c.ID), containerFile{
		Version: version, Phase: p, ID: c.ID, SandboxID: c.Sandbox.ID,
		Name: c.Config.GetMetadata().GetName(), Config: config,
		CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, Exit: c.Exit,
		ImageRef: c.ImageRef, LogPath: c.LogPath, User: user, Signal: c.StopSignal, State: c.State,
	})
}

func (d *Dir) put(file string, content any) error {
	line, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encoding %q: %w", file, err)
	}
	if err := appendLine(file, append(line, '\n'), d.spread); err != nil {
		return fmt.Errorf("writing the record %q: %w", file, err)
	}
	return nil
}

// Content is what a directory has recorded, by id.
type Content struct {
	Sandboxes  map[string]*Sandbox
	Containers map[string]*Container
	phases     map[string]Phase
	// Lost are the files that a power loss has damaged, and the directories whose records
	// it destroyed. They have been removed, as what they described no longer exists.
	Lost []string
}

// Phase returns the phase of the object with this id.
func (c *Content) Phase(id string) Phase { return c.phases[id] }

// Load reads every record. If one cannot be read, the error names the file: continuing
// without it would leak what it describes. Only if the machine was booted since the last
// Load may there be some that were being written when it stopped; they are Lost.
func (d *Dir) Load() (*Content, error) {
	all := &Content{Sandboxes: map[string]*Sandbox{}, Containers: map[string]*Container{}, phases: map[string]Phase{}}
	boot, rebooted, err := bootid.Changed(d.bootFile())
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	if err := d.each(all, rebooted, "sandboxes", d.loadSandbox); err != nil {
		return nil, err
	}
	if err := d.each(all, rebooted, "containers", d.loadContainer); err != nil {
		return nil, err
	}
	if !rebooted {
		return all, nil
	}
	if err := d.clearHomes(all); err != nil {
		return nil, err
	}
	return all, bootid.Note(d.bootFile(), boot)
}

func (d *Dir) loadSandbox(all *Content, data []byte) error {
	var f sandboxFile
	config := &runtimeapi.PodSandboxConfig{}
	if err := decode(data, &f, func() (int, []byte) { return f.Version, f.Config }, config); err != nil {
		return err
	}
	all.phases[f.ID] = f.Phase
	all.Sandboxes[f.ID] = &Sandbox{
		ID: f.ID, Config: config, Handler: f.Handler, CreatedAt: f.CreatedAt,
		Dir: d.Home(f.ID), Ready: f.Ready, IPs: f.IPs, State: f.State,
	}
	return nil
}

func (d *Dir) loadContainer(all *Content, data []byte) error {
	var f containerFile
	config := &runtimeapi.ContainerConfig{}
	if err := decode(data, &f, func() (int, []byte) { return f.Version, f.Config }, config); err != nil {
		return err
	}
	sandbox := all.Sandboxes[f.SandboxID]
	if sandbox == nil {
		return damagef("its sandbox %q is not on record", f.SandboxID)
	}
	user, err := decodeUser(f.User)
	if err != nil {
		return err
	}
	all.phases[f.ID] = f.Phase
	all.Containers[f.ID] = &Container{
		ID: f.ID, Sandbox: sandbox, Config: config, CreatedAt: f.CreatedAt,
		StartedAt: f.StartedAt, Exit: f.Exit, ImageRef: f.ImageRef,
		LogPath: f.LogPath, User: user, StopSignal: cmp.Or(f.Signal, config.GetStopSignal()), Dir: d.Home(f.ID), State: f.State,
	}
	return nil
}

// decodeUser returns nil for a container that has no user recorded.
func decodeUser(wire []byte) (*runtimeapi.LinuxContainerUser, error) {
	if len(wire) == 0 {
		return nil, nil
	}
	user := &runtimeapi.LinuxContainerUser{}
	return user, proto.Unmarshal(wire, user)
}

// each loads the records of a kind. After a reboot, damaged records are removed.
func (d *Dir) each(all *Content, rebooted bool, kind string, load func(*Content, []byte) error) error {
	dir := filepath.Join(d.path, kind)
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
		err := lastLine(file, rebooted, func(line []byte) error { return load(all, line) })
		if rebooted && errors.As(err, new(damage)) {
			all.Lost = append(all.Lost, fmt.Sprintf("%s (%v)", file, err))
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading the record %q: %w", file, err))
		}
	}
	return errors.Join(errs...)
}

func decode(data []byte, file any, fields func() (version int, config []byte), config proto.Message) error {
	if err := json.Unmarshal(data, file); err != nil {
		return damage{err}
	}
	have, wire := fields()
	if have < 1 || have > version {
		return fmt.Errorf("it has version %d and this program knows versions up to %d: use the program that wrote it", have, version)
	}
	return proto.Unmarshal(wire, config)
}

// Package store keeps the volumes of a CSI driver whose state lives on this
// machine: one durable record a volume, names that map to ids, sizes, and the
// rules of CreateVolume and DeleteVolume for repeated calls. The author says how
// a volume is made and removed; the methods of Store are then the driver's
// Recover, CreateVolume, DeleteVolume, GetVolume and ListVolumes.
//
// A volume exists once its record says "ready", which is written after Make
// returned. A kill before that leaves a record that the next Recover removes, and a
// kill during a deletion is finished by it, so no half of a volume stays.
//
// A driver whose backend is the record, as a cloud's disks are, does not need
// this package. A Store is safe for concurrent use by one process.
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// DefaultCapacity is the size of a volume for which nobody asked for one.
const DefaultCapacity = 1 << 30

var errNotRecovered = fault.Internal.Errorf("the volume store has not been read: set the driver's Recover to Store.Recover")

// Volume is a volume on record. Only the Store changes it.
type Volume struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Capacity     int64             `json:"capacity"`
	Capabilities []csi.Capability  `json:"capabilities,omitempty"`
	Parameters   map[string]string `json:"parameters,omitempty"`
	// Ephemeral volumes were made by MakeEphemeral.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Backend is what a driver adds to the store.
type Backend struct {
	// Make makes the volume's storage, empty. When it returns an error, or the
	// process dies in it, Remove is called next and the volume never existed.
	Make func(context.Context, *Volume) error
	// Remove removes the storage, or what there is of it. Idempotent.
	Remove func(context.Context, *Volume) error
	// Parameters are the keys that CreateVolume accepts in its parameters beside
	// those of the form "csi.storage.k8s.io/...". Any other is csi.ErrInvalid.
	Parameters []string
}

// Options change a Store. nil means the defaults.
type Options struct {
	Logger *slog.Logger // nil discards
}

// Store holds the records of one directory.
type Store struct {
	dir     string
	backend Backend
	log     *slog.Logger

	mu     sync.Mutex
	byID   map[string]*record
	byName map[string]string
	busy   map[string]bool // names with an operation going on
}

// New returns a store of the records in dir. It reads nothing: Recover does,
// and every other method fails until it has. dir should lie in the driver's
// StateDir, which no other process has while the driver is served.
func New(dir string, b Backend, o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	s := &Store{dir: dir, backend: b, log: o.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Recover is a driver's Recover: it reads the records, makes dir when it is
// missing, and removes the volumes that were half made or half deleted. One that
// cannot be removed is logged and does not keep the driver from serving the
// others: Create with its name, Delete and the next Recover try again.
func (s *Store) Recover(ctx context.Context) error {
	records, err := load(s.dir)
	if err != nil {
		return fmt.Errorf("opening the volume store: %w", err)
	}
	s.mu.Lock()
	s.byID, s.byName, s.busy = map[string]*record{}, map[string]string{}, map[string]bool{}
	for _, r := range records {
		s.byID[r.ID], s.byName[r.Name] = r, r.ID
	}
	s.mu.Unlock()
	for _, r := range records {
		if r.Ready {
			continue
		}
		s.log.InfoContext(ctx, "removing a volume that was half made or half deleted", "volume", r.ID)
		if err := s.forget(ctx, r); err != nil {
			s.log.ErrorContext(ctx, "removing an incomplete volume", "volume", r.ID, "err", err)
		}
	}
	return nil
}

// Create is a driver's CreateVolume. The volume's size is the required one, or
// the smaller of DefaultCapacity and the limit.
func (s *Store) Create(ctx context.Context, r *csi.CreateRequest) (*csi.Volume, error) {
	for _, k := range slices.Sorted(maps.Keys(r.Parameters)) {
		if !slices.Contains(s.backend.Parameters, k) && !strings.HasPrefix(k, "csi.storage.k8s.io/") {
			return nil, fault.Invalid.Errorf("parameter %q is unknown: this driver knows %q", k, s.backend.Parameters)
		}
	}
	release, err := s.begin(r.Name)
	if err != nil {
		return nil, err
	}
	defer release()
	if old := s.named(r.Name); old != nil && old.Ready {
		return old.answer(r)
	} else if old != nil { // its removal did not succeed
		if err := s.forget(ctx, old); err != nil {
			return nil, err
		}
	}
	v := Volume{ID: "vol-" + strings.ToLower(rand.Text()), Name: r.Name, Capacity: size(r), Capabilities: r.Capabilities, Parameters: r.Parameters}
	rec, err := s.build(ctx, v)
	if err != nil {
		return nil, err
	}
	return rec.volume(), nil
}

// MakeEphemeral makes the volume with the given id, which belongs to one Pod, or
// finds it made. An id that belongs to another kind of volume is
// csi.ErrAlreadyExists.
func (s *Store) MakeEphemeral(ctx context.Context, id string) error {
	if strings.ContainsAny(id, "/\x00") || strings.HasPrefix(id, ".") {
		return fault.Invalid.Errorf("volume id %q cannot be a file name", id)
	}
	release, err := s.begin(id)
	if err != nil {
		return err
	}
	defer release()
	switch old := s.withID(id); {
	case old == nil:
	case !old.Ephemeral:
		return fault.AlreadyExists.Errorf("volume %q is not an ephemeral one", id)
	case old.Ready:
		return nil
	default: // its removal did not succeed
		if err := s.forget(ctx, old); err != nil {
			return err
		}
	}
	_, err = s.build(ctx, Volume{ID: id, Name: id, Capacity: DefaultCapacity, Ephemeral: true})
	return err
}

// RemoveEphemeral is the inverse of MakeEphemeral. It does nothing to other
// volumes, and succeeds when there is none of the id.
func (s *Store) RemoveEphemeral(ctx context.Context, id string) error {
	if r := s.withID(id); r != nil && !r.Ephemeral {
		return nil
	}
	return s.Delete(ctx, &csi.DeleteRequest{VolumeID: id})
}

// Delete is a driver's DeleteVolume.
func (s *Store) Delete(ctx context.Context, r *csi.DeleteRequest) error {
	if err := s.recovered(); err != nil {
		return err
	}
	rec := s.withID(r.VolumeID)
	if rec == nil {
		return nil
	}
	release, err := s.begin(rec.Name)
	if err != nil {
		return err
	}
	defer release()
	if rec = s.withID(r.VolumeID); rec == nil {
		return nil
	}
	dying := *rec
	dying.Ready = false
	if err := dying.write(s.dir); err != nil {
		return err
	}
	s.put(&dying)
	return s.forget(ctx, &dying)
}

// Find returns a copy of the volume's record, or csi.ErrNotFound, also for a
// volume that is being made or removed.
func (s *Store) Find(id string) (*Volume, error) {
	if err := s.recovered(); err != nil {
		return nil, err
	}
	r := s.withID(id)
	if r == nil || !r.Ready {
		return nil, fault.NotFound.Errorf("volume %q does not exist", id)
	}
	v := r.Volume
	return &v, nil
}

// Get is a driver's GetVolume.
func (s *Store) Get(_ context.Context, id string) (*csi.Volume, error) {
	v, err := s.Find(id)
	if err != nil {
		return nil, err
	}
	return v.volume(), nil
}

// List is a driver's ListVolumes. Ephemeral volumes are not in it: no
// orchestrator made them.
func (s *Store) List(context.Context) ([]*csi.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		return nil, errNotRecovered
	}
	var list []*csi.Volume
	for _, r := range s.byID {
		if r.Ready && !r.Ephemeral {
			list = append(list, r.volume())
		}
	}
	return list, nil
}

// build makes a volume: record, storage, record.
func (s *Store) build(ctx context.Context, v Volume) (*record, error) {
	r := &record{Version: version, Volume: v}
	if err := r.write(s.dir); err != nil {
		return nil, err
	}
	s.put(r)
	err := s.backend.Make(ctx, &v)
	if err != nil {
		return nil, errors.Join(err, s.forget(ctx, r))
	}
	ready := &record{Version: version, Volume: v, Ready: true}
	if err := ready.write(s.dir); err != nil {
		return nil, errors.Join(err, s.forget(ctx, r))
	}
	s.put(ready)
	return ready, nil
}

// forget removes the storage and then the record of a volume that is not ready.
func (s *Store) forget(ctx context.Context, r *record) error {
	v := r.Volume
	if err := s.backend.Remove(ctx, &v); err != nil {
		return err
	}
	if err := r.remove(s.dir); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, r.ID)
	delete(s.byName, r.Name)
	return nil
}

// begin takes a name for one operation.
func (s *Store) begin(name string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		return nil, errNotRecovered
	}
	if s.busy[name] {
		return nil, fault.Aborted.Errorf("an operation on volume %q is still going on: try again", name)
	}
	s.busy[name] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, name)
	}, nil
}

func (s *Store) put(r *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[r.ID], s.byName[r.Name] = r, r.ID
}

func (s *Store) recovered() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		return errNotRecovered
	}
	return nil
}

// withID returns the record, also of a volume that is not ready, or nil.
func (s *Store) withID(id string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func (s *Store) named(name string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[s.byName[name]]
}

func size(r *csi.CreateRequest) int64 {
	if r.Required > 0 {
		return r.Required
	}
	if r.Limit > 0 {
		return min(r.Limit, DefaultCapacity)
	}
	return DefaultCapacity
}

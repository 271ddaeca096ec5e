// Package store keeps the volumes of a CSI driver whose state lives on this machine:
// one durable record per volume, the mapping of names to ids, sizes, and the rules of
// CreateVolume and DeleteVolume for repeated calls. The author supplies how a volume is
// made and removed. The methods of Store then serve as the driver's Recover,
// CreateVolume, DeleteVolume, GetVolume and ListVolumes.
//
// A volume exists once its record is marked ready, which is written after Make has
// returned. If the process is killed before that, or during a deletion, the next
// Recover removes the volume, so no partial volume remains.
//
// A driver whose backend already keeps the records, as a cloud's disks do, does not
// need this package. A Store is safe for concurrent use by one process.
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

// DefaultCapacity is the size in bytes of a volume if the request names none.
const DefaultCapacity = 1 << 30

var errNotRecovered = fault.Internal.Errorf("the volume store has not been read: set the driver's Recover to Store.Recover")

// Volume is a recorded volume. Only the Store changes it.
type Volume struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Capacity     int64             `json:"capacity"`
	Capabilities []csi.Capability  `json:"capabilities,omitempty"`
	Parameters   map[string]string `json:"parameters,omitempty"`
	// Ephemeral is set for volumes created by MakeEphemeral.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Backend is the driver's part of the store.
type Backend struct {
	// Make creates the volume's storage, empty. If it returns an error, or the process
	// dies in it, Remove is called next and the volume never existed.
	Make func(context.Context, *Volume) error
	// Remove removes the storage, even if it is incomplete or missing. It must be
	// idempotent.
	Remove func(context.Context, *Volume) error
	// Parameters are the keys that CreateVolume accepts in its parameters, in addition
	// to "csi.storage.k8s.io/...". Any other key is csi.ErrInvalid.
	Parameters []string
}

// Options configures New. Nil means the defaults.
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
	busy   map[string]bool // names with an operation in progress
}

// New returns a store of the records in dir. It reads nothing: until Recover has been
// called, every other method fails. dir should be in the driver's StateDir, which no
// other process uses while the driver is served.
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

// Recover is a driver's Recover. It reads the records, creates dir if missing, and
// removes volumes that were only partly created or deleted. A volume that cannot be
// removed is logged and does not prevent the driver from serving the others: Create
// with its name, Delete and the next Recover try again.
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

// Create is a driver's CreateVolume. The size is the required one, if any; otherwise
// DefaultCapacity, or the limit if that is smaller.
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

// MakeEphemeral creates the volume with the given id, which belongs to one Pod, unless
// it exists. If another kind of volume has the id, the error is csi.ErrAlreadyExists.
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

// RemoveEphemeral is the inverse of MakeEphemeral. It ignores other volumes, and
// succeeds if no volume has the id.
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

// Find returns a copy of the volume's record. A volume that does not exist, or is being
// created or removed, is csi.ErrNotFound.
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

// List is a driver's ListVolumes. It omits ephemeral volumes, because no orchestrator
// created them.
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

// build creates a volume in three steps: record, storage, ready record.
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

// begin reserves a name for one operation.
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

// withID returns the record, ready or not, or nil.
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

package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

const (
	formatVersion = 1
	// reserve is how many resourceVersions are reserved with one write, so that the
	// numbers of lazy changes that were lost in a crash are not given out again.
	reserve = 10_000
	// lockWithin is how long another process may take to release the file.
	lockWithin = 200 * time.Millisecond
	// lazyDelay is how long a change may stay in memory only.
	lazyDelay = 250 * time.Millisecond
)

var (
	metaBucket  = []byte("meta")
	versionKey  = []byte("version")
	revisionKey = []byte("revision")
	idKey       = []byte("id")
)

// Open opens the store in the file, or creates one. Only its owner can read the file,
// because it holds Secrets. A store of a newer format version is rejected.
func Open(file string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &Store{
		collections: map[*object.Kind]*collection{}, lazy: map[ref][]byte{}, log: opts.Logger,
	}
	for _, k := range object.Kinds() {
		s.collections[k] = newCollection()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{
		Timeout: lockWithin, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 16 << 20,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fault.AlreadyExists.Errorf("another node runs on this root: stop it, or choose another root")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the object store %q: %w", file, err)
	}
	s.db = db
	if err := errors.Join(os.Chmod(file, 0o600), s.load()); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the object store %q: %w", file, err), db.Close())
	}
	return s, nil
}

// load reads all objects and reserves resourceVersions. On a full disk it reserves
// none: then every change waits for room, but the existing objects can be read.
func (s *Store) load() error {
	if err := s.db.View(s.read); err != nil {
		return err
	}
	err := s.db.Update(s.reserve)
	if s.id != "" && errors.Is(err, syscall.ENOSPC) {
		s.log.Error("the disk under the object store is full: its objects can be read and not changed", "err", err)
		s.reserved, err = s.revision, nil
	}
	for _, c := range s.collections {
		c.horizon = s.revision // earlier changes are not known
	}
	return err
}

// read reads the store that is in the file, if there is one.
func (s *Store) read(tx *bbolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return nil
	}
	if v := number(meta.Get(versionKey)); v > formatVersion {
		return fault.FailedPrecondition.Errorf("it has format version %d and this program knows %d: use a newer nodekit", v, formatVersion)
	}
	s.id, s.revision = string(meta.Get(idKey)), number(meta.Get(revisionKey))
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if string(name) == string(metaBucket) {
			return nil
		}
		k := kindNamed(string(name))
		if k == nil {
			return fault.FailedPrecondition.Errorf("it holds objects of kind %s, which this program does not know: use a newer nodekit", name)
		}
		return s.readKind(k, b)
	})
}

// reserve initializes the file if necessary, and reserves resourceVersions.
func (s *Store) reserve(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	id := s.id
	if id == "" {
		id = string(uuid.NewUUID())
	}
	s.reserved = s.revision + reserve
	if err := errors.Join(meta.Put(idKey, []byte(id)), meta.Put(versionKey, bytesOf(formatVersion)), meta.Put(revisionKey, bytesOf(s.reserved))); err != nil {
		return err
	}
	tx.OnCommit(func() { s.id = id })
	return nil
}

func kindNamed(key string) *object.Kind {
	all := object.Kinds()
	if i := slices.IndexFunc(all, func(k *object.Kind) bool { return k.Key() == key }); i >= 0 {
		return all[i]
	}
	return nil
}

func (s *Store) readKind(k *object.Kind, b *bbolt.Bucket) error {
	return b.ForEach(func(key, data []byte) error {
		o := k.New()
		if err := json.Unmarshal(data, o); err != nil {
			return fmt.Errorf("reading %s %q: %w", k.Key(), key, err)
		}
		s.collections[k].objects[string(key)] = o
		return nil
	})
}

// commit runs change in one durable transaction, together with the changes that are
// only in memory. The caller holds s.write.
func (s *Store) commit(change func(*bbolt.Tx) error) error {
	pending := s.pending()
	reserved := s.reserved
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for r, data := range pending {
			if err := insert(tx, r, data); err != nil {
				return err
			}
		}
		if s.next()+reserve/2 > reserved {
			reserved += reserve
			if err := tx.Bucket(metaBucket).Put(revisionKey, bytesOf(reserved)); err != nil {
				return err
			}
		}
		if change == nil {
			return nil
		}
		return change(tx)
	})
	if err != nil {
		s.again(pending)
		return err
	}
	s.reserved = reserved
	return nil
}

// pending takes the objects that are only in memory.
func (s *Store) pending() map[ref][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.lazy
	s.lazy = map[ref][]byte{}
	return out
}

// again puts back what pending took and commit could not write.
func (s *Store) again(pending map[ref][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.lazy, pending)
}

// later schedules the write of lazy changes to disk. The caller holds s.mu.
func (s *Store) later() {
	if s.flush == nil {
		s.flush = time.AfterFunc(lazyDelay, s.flushNow)
	} else if len(s.lazy) == 1 {
		s.flush.Reset(lazyDelay)
	}
}

func (s *Store) flushNow() {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.RLock()
	nothing := len(s.lazy) == 0 // another write included them
	s.mu.RUnlock()
	if s.closed || nothing {
		return
	}
	if err := s.commit(nil); err != nil {
		s.log.Error("writing changes that were held back", "err", err)
		s.mu.Lock()
		s.flush.Reset(10 * lazyDelay)
		s.mu.Unlock()
	}
}

func insert(tx *bbolt.Tx, r ref, data []byte) error {
	b, err := tx.CreateBucketIfNotExists([]byte(r.kind.Key()))
	if err != nil {
		return err
	}
	return b.Put([]byte(r.key), data)
}

func remove(tx *bbolt.Tx, r ref) error {
	b := tx.Bucket([]byte(r.kind.Key()))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(r.key))
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func bytesOf(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Close writes pending changes and closes the file. It is idempotent.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.mu.Lock()
	if s.flush != nil {
		s.flush.Stop()
	}
	s.mu.Unlock()
	return errors.Join(s.commit(nil), s.db.Close())
}

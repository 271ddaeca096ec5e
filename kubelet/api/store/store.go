// Package store keeps the node's objects: Pods and what they refer to. It consists of
// one bbolt file and a copy of all objects in memory, with one resourceVersion for all
// of them and watches that can be resumed.
//
// All changes are made with Write, a transaction on one object. It is durable when the
// call returns, unless the caller says that the change can be repeated (Lazy), as a
// status can: then it becomes durable within a moment. A crash leaves the objects of
// the last durable write. A resourceVersion is never given out twice, not even after a
// crash.
//
// What the store returns is shared between all readers and must not be changed. All
// methods are safe for concurrent use. Only one process at a time can open a store.
package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// Object is any Kubernetes object.
type Object = object.Object

// Store holds the objects of one node.
type Store struct {
	db  *bbolt.DB
	id  string
	log *slog.Logger

	write sync.Mutex // held by one writer at a time, during its fsync

	mu          sync.RWMutex // guards what follows; never held over I/O
	collections map[*object.Kind]*collection
	revision    uint64
	lazy        map[ref][]byte // so far only in memory
	flush       *time.Timer

	reserved uint64 // guarded by write
	closed   bool   // guarded by write
}

// ref identifies an object.
type ref struct {
	kind *object.Kind
	key  string // namespace/name
}

func refOf(k *object.Kind, namespace, name string) ref {
	return ref{k, types.NamespacedName{Namespace: namespace, Name: name}.String()}
}

// Options configures Open. Nil means the defaults.
type Options struct {
	Logger *slog.Logger // nil discards
}

// ID returns the random identity that the store got when it was created. The node uses
// it to mark its objects in a shared runtime.
func (s *Store) ID() string { return s.id }

// Revision returns the resourceVersion of the last change of any object.
func (s *Store) Revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Get returns the object, or fault.NotFound. namespace is empty for cluster-scoped
// kinds.
func (s *Store) Get(k *object.Kind, namespace, name string) (Object, error) {
	r := refOf(k, namespace, name)
	if o := s.at(r); o != nil {
		return o, nil
	}
	return nil, notFound(r)
}

func notFound(r ref) error { return fault.NotFound.Errorf("%s %q does not exist", r.kind.Kind, r.key) }

// List returns the objects of the kind in the namespace, "" for all, in no order, and
// their revision: a watch from there misses nothing.
func (s *Store) List(k *object.Kind, namespace string) ([]Object, uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	objects := s.collections[k].objects
	list := make([]Object, 0, len(objects))
	for _, o := range objects {
		if namespace == "" || o.GetNamespace() == namespace {
			list = append(list, o)
		}
	}
	return list, s.revision
}

// Change returns the next state of an object, given the stored one, which it must not
// modify. old is nil if there is none; a nil next deletes the object. Returning old
// itself changes nothing. Change is called with the store locked for writers, so it
// must be quick and must not write.
type Change func(old Object) (next Object, err error)

// WriteOptions configures Write. The zero value writes durably.
type WriteOptions struct {
	// Lazy allows the change to be lost in a crash that follows within a moment.
	// Creations and deletions are durable nevertheless.
	Lazy bool
	// DryRun does everything except the write. The resourceVersion does not change.
	DryRun bool
}

// Write changes one object and returns it as it is stored now; after a deletion, its
// last state. An object that change returns then belongs to the store, which sets its
// resourceVersion and, for a new object, uid, creationTimestamp and generation if they
// are missing. The error is that of change, or of the disk, or fault.Exhausted for an
// object that is too large; then nothing has changed.
func (s *Store) Write(k *object.Kind, namespace, name string, change Change, opts WriteOptions) (Object, error) {
	r := refOf(k, namespace, name)
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return nil, fault.Unavailable.Errorf("the object store is closed")
	}
	old := s.at(r)
	next, err := change(old)
	switch {
	case err != nil:
		return nil, err
	case next == old:
		return old, nil
	case next == nil:
		return s.remove(r, old, opts)
	}
	if old == nil {
		complete(next)
	}
	next.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	if opts.DryRun {
		_, err := object.Encode(next)
		return next, err
	}
	return s.put(r, next, old, opts)
}

func complete(o Object) {
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	if made := o.GetCreationTimestamp(); made.IsZero() {
		o.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	}
	if o.GetGeneration() == 0 {
		o.SetGeneration(1)
	}
}

// put stores o. The caller holds s.write.
func (s *Store) put(r ref, o, old Object, opts WriteOptions) (Object, error) {
	next := s.next()
	o.SetResourceVersion(formatRevision(next))
	// A disk that cannot be written to does not allow reserving resourceVersions,
	// either. Lazy changes then wait for it, or a number could be given out twice.
	lazy := opts.Lazy && old != nil && next < s.reserved
	data, err := object.Encode(o)
	if err != nil {
		return nil, err
	}
	if !lazy {
		if err := s.commit(func(tx *bbolt.Tx) error { return insert(tx, r, data) }); err != nil {
			return nil, fmt.Errorf("writing %s %q: %w", r.kind.Kind, r.key, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if lazy {
		s.lazy[r] = data
		s.later()
	} else {
		delete(s.lazy, r)
	}
	s.revision = next
	c := s.collections[r.kind]
	c.objects[r.key] = o
	c.add(&Event{Type: typeOf(old), Object: o, Before: old, Revision: next}, data)
	return o, nil
}

func typeOf(old Object) EventType {
	if old == nil {
		return Added
	}
	return Modified
}

// remove deletes the object. The caller holds s.write.
func (s *Store) remove(r ref, old Object, opts WriteOptions) (Object, error) {
	if opts.DryRun {
		return old, nil
	}
	next := s.next()
	last := old.DeepCopyObject().(Object)
	last.SetResourceVersion(formatRevision(next))
	data, err := json.Marshal(last) // regardless of its size: it is being deleted
	if err != nil {
		return nil, fmt.Errorf("encoding %s %q: %w", r.kind.Kind, r.key, err)
	}
	if err := s.commit(func(tx *bbolt.Tx) error { return remove(tx, r) }); err != nil {
		return nil, fmt.Errorf("deleting %s %q: %w", r.kind.Kind, r.key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = next
	c := s.collections[r.kind]
	delete(c.objects, r.key)
	delete(s.lazy, r)
	c.add(&Event{Type: Deleted, Object: last, Before: old, Revision: next}, data)
	return last, nil
}

func (s *Store) at(r ref) Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.collections[r.kind].objects[r.key]
}

// next returns the next resourceVersion. The caller holds s.write.
func (s *Store) next() uint64 { return s.Revision() + 1 }

func formatRevision(n uint64) string { return strconv.FormatUint(n, 10) }

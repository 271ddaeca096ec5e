// Package store keeps the node's objects: Pods and what they refer to. It is
// one bbolt file with all objects in memory before it, one resourceVersion over
// all of them, and watches that can be resumed.
//
// There is one way to change anything, Write, which is a transaction on one
// object. It is durable when the call returns unless the caller says that the
// change can be told again (Lazy), as a status can: then it follows within a
// moment. A crash leaves the objects of the last durable write; a
// resourceVersion is never given out twice, also not over a crash.
//
// What the store returns is shared between all readers and must not be changed.
// All methods are safe for concurrent use. One process at a time opens a store.
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

	write sync.Mutex // held by one writer at a time, over its fsync

	mu          sync.RWMutex // guards what follows; never held over I/O
	collections map[*object.Kind]*collection
	revision    uint64
	lazy        map[ref][]byte // written to memory only so far
	flush       *time.Timer

	reserved uint64 // guarded by write
	closed   bool   // guarded by write
}

// ref names an object.
type ref struct {
	kind *object.Kind
	key  string // namespace/name
}

func refOf(k *object.Kind, namespace, name string) ref {
	return ref{k, types.NamespacedName{Namespace: namespace, Name: name}.String()}
}

// Options are options of Open. nil means the defaults.
type Options struct {
	Logger *slog.Logger // nil discards
}

// ID returns the random identity that the store was given when it was made. It
// is the node's mark on what it owns in a shared runtime.
func (s *Store) ID() string { return s.id }

// Revision returns the resourceVersion of the last change of any object.
func (s *Store) Revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Get returns the object, or fault.NotFound. namespace is empty for kinds
// without one.
func (s *Store) Get(k *object.Kind, namespace, name string) (Object, error) {
	r := refOf(k, namespace, name)
	if o := s.at(r); o != nil {
		return o, nil
	}
	return nil, notFound(r)
}

func notFound(r ref) error { return fault.NotFound.Errorf("%s %q does not exist", r.kind.Kind, r.key) }

// List returns the objects of the kind in the namespace, "" for all, in no
// order, and the revision at which they were so: a watch from there misses
// nothing.
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

// Change makes the next state of an object from the one that is stored, which
// it must not modify: old is nil when there is none, and a nil next deletes the
// object. Returning old itself changes nothing. It is called with the store
// locked for writers, so it must be quick and must not write.
type Change func(old Object) (next Object, err error)

// WriteOptions are options of Write. The zero value writes durably.
type WriteOptions struct {
	// Lazy lets the change be lost in a crash that follows within a moment. A new
	// or deleted object is durable all the same.
	Lazy bool
	// DryRun does everything but the writing. The resourceVersion stays what it was.
	DryRun bool
}

// Write changes one object and returns it as it is stored now; for a deleted
// one, as it was last. An object that change returns belongs to the store from
// then on, which sets its resourceVersion, and for a new one uid,
// creationTimestamp and generation where they are missing. The error is that of
// change, or of the disk, or fault.Exhausted for an object that is too large, and
// nothing has changed then.
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
	// A disk that takes no writes does not set resourceVersions aside either: then
	// lazy changes wait for it, or a number could be given out twice.
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
	data, err := json.Marshal(last) // whatever its size: it is to go
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

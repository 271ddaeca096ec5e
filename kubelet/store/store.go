// Package store keeps the node's objects: Pods and what they refer to. It is
// one bbolt file with all objects in memory before it, one resourceVersion over
// all of them, and watches.
//
// A write is durable when the call returns, except SetStatus, whose writes
// follow within a moment: a status can be computed again from the runtime. A
// crash leaves the objects of the last durable write; a resourceVersion is
// never given out twice, also not over a crash.
//
// Objects given to and returned by the store share no memory with it. All
// methods are safe for concurrent use. One process at a time opens a store.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Object is any Kubernetes object. Its kind follows from its Go type.
type Object = interface {
	metav1.Object
	runtime.Object
}

// Store holds the objects of one node.
type Store struct {
	db  *bbolt.DB
	id  string
	log *slog.Logger

	write sync.Mutex // held by one writer at a time, over its fsync

	mu       sync.RWMutex // guards what follows; never held over I/O
	objects  map[string]map[string]Object
	revision uint64
	watchers map[*watcher]struct{}
	lazy     map[ref]struct{} // written to memory only so far
	flush    *time.Timer

	reserved uint64 // guarded by write
	closed   bool   // guarded by write
}

// ref names an object: its kind and its namespace/name.
type ref struct{ kind, key string }

// Options are options of Open. nil means the defaults.
type Options struct {
	Logger *slog.Logger // nil discards
}

// ID returns the random identity that the store was given when it was made. It
// is the node's mark on what it owns in a shared runtime.
func (s *Store) ID() string { return s.id }

// Get reads the object into into. It returns fault.NotFound when there is none.
// namespace is empty for kinds without one.
func (s *Store) Get(_ context.Context, namespace, name string, into Object) error {
	r, err := refOf(into, namespace, name)
	if err != nil {
		return err
	}
	s.mu.RLock()
	have := s.objects[r.kind][r.key]
	s.mu.RUnlock()
	if have == nil {
		return fault.NotFound.Errorf("%s %q does not exist", r.kind, r.key)
	}
	assign(into, have)
	return nil
}

// Create adds the object and sets its uid, creationTimestamp and
// resourceVersion. It returns fault.AlreadyExists when there is one of that name.
func (s *Store) Create(_ context.Context, o Object) error {
	r, err := refOf(o, o.GetNamespace(), o.GetName())
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if s.at(r) != nil {
		return fault.AlreadyExists.Errorf("%s %q exists already", r.kind, r.key)
	}
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	if made := o.GetCreationTimestamp(); made.IsZero() {
		o.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	}
	if o.GetGeneration() == 0 {
		o.SetGeneration(1)
	}
	return s.put(r, o, Added)
}

// Update replaces the object and sets its new resourceVersion. It returns
// fault.NotFound when there is none, and fault.Aborted when o has a
// resourceVersion or uid that is not the stored one's. An update that changes
// nothing writes nothing and is no event.
func (s *Store) Update(_ context.Context, o Object) error {
	r, err := refOf(o, o.GetNamespace(), o.GetName())
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.current(r, o); err != nil {
		return err
	}
	o.SetResourceVersion(s.at(r).GetResourceVersion())
	if equality.Semantic.DeepEqual(o, s.at(r)) {
		return nil
	}
	return s.put(r, o, Modified)
}

// current checks that o is based on what is stored.
func (s *Store) current(r ref, o Object) error {
	have := s.at(r)
	switch {
	case have == nil:
		return fault.NotFound.Errorf("%s %q does not exist", r.kind, r.key)
	case o.GetUID() != "" && o.GetUID() != have.GetUID():
		return fault.Aborted.Errorf("%s %q was replaced by another of the same name", r.kind, r.key)
	case o.GetResourceVersion() != "" && o.GetResourceVersion() != have.GetResourceVersion():
		return fault.Aborted.Errorf("%s %q was changed meanwhile: read it again", r.kind, r.key)
	}
	o.SetUID(have.GetUID())
	o.SetCreationTimestamp(have.GetCreationTimestamp())
	return nil
}

// Delete removes the object. When o has a uid, only the object with that uid
// is removed. It returns fault.NotFound when there is none.
func (s *Store) Delete(_ context.Context, o Object) error {
	r, err := refOf(o, o.GetNamespace(), o.GetName())
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	have := s.at(r)
	if have == nil || o.GetUID() != "" && o.GetUID() != have.GetUID() {
		return fault.NotFound.Errorf("%s %q does not exist", r.kind, r.key)
	}
	next := s.next()
	if err := s.commit(func(tx *bbolt.Tx) error { return remove(tx, r) }); err != nil {
		return fmt.Errorf("deleting %s %q: %w", r.kind, r.key, err)
	}
	last := have.DeepCopyObject().(Object)
	last.SetResourceVersion(formatRevision(next))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = next
	delete(s.objects[r.kind], r.key)
	delete(s.lazy, r)
	s.notify(r.kind, Event{Type: Deleted, Object: last})
	return nil
}

// put writes o durably and tells the watchers. The caller holds s.write.
func (s *Store) put(r ref, o Object, kind EventType) error {
	next := s.next()
	o.SetResourceVersion(formatRevision(next))
	data, err := encode(o)
	if err != nil {
		return err
	}
	if err := s.commit(func(tx *bbolt.Tx) error { return insert(tx, r, data) }); err != nil {
		return fmt.Errorf("writing %s %q: %w", r.kind, r.key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swap(r, o, next, kind)
	delete(s.lazy, r)
	return nil
}

// swap makes o what readers and watchers see. The caller holds s.mu.
func (s *Store) swap(r ref, o Object, revision uint64, kind EventType) {
	kept := o.DeepCopyObject().(Object)
	s.revision = revision
	if s.objects[r.kind] == nil {
		s.objects[r.kind] = map[string]Object{}
	}
	s.objects[r.kind][r.key] = kept
	s.notify(r.kind, Event{Type: kind, Object: kept})
}

func (s *Store) at(r ref) Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects[r.kind][r.key]
}

// next returns the next resourceVersion. The caller holds s.write.
func (s *Store) next() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision + 1
}

func formatRevision(n uint64) string { return strconv.FormatUint(n, 10) }

// List returns the objects of T's kind in the namespace, "" for all.
func List[T Object](s *Store, namespace string) []T {
	kind, err := kindOf(reflect.New(reflect.TypeFor[T]().Elem()).Interface().(Object))
	if err != nil {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []T
	for _, o := range s.objects[kind] {
		if namespace == "" || o.GetNamespace() == namespace {
			list = append(list, o.DeepCopyObject().(T))
		}
	}
	return list
}

// Close writes what is not written yet and closes the file. Idempotent.
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

func refOf(o Object, namespace, name string) (ref, error) {
	kind, err := kindOf(o)
	if err != nil {
		return ref{}, err
	}
	if name == "" {
		return ref{}, fault.Invalid.Errorf("%s without a name", kind)
	}
	return ref{kind, types.NamespacedName{Namespace: namespace, Name: name}.String()}, nil
}

// kindOf returns the kind of the Go type, with its group unless that is core.
func kindOf(o Object) (string, error) {
	gvks, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		return "", fault.Invalid.Errorf("storing %T: %w", o, err)
	}
	return gvks[0].GroupKind().String(), nil
}

// encode returns the JSON of o with its kind and version in it.
func encode(o Object) ([]byte, error) {
	gvks, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		return nil, err
	}
	typed := o.DeepCopyObject().(Object)
	typed.GetObjectKind().SetGroupVersionKind(gvks[0])
	data, err := json.Marshal(typed)
	if err != nil {
		return nil, fmt.Errorf("encoding %s %q: %w", gvks[0].Kind, o.GetName(), err)
	}
	return data, nil
}

// assign copies from into into, which is of the same type.
func assign(into, from Object) {
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(from.DeepCopyObject()).Elem())
}

// All returns every object.
func (s *Store) All() []Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []Object
	for _, objects := range s.objects {
		for _, o := range objects {
			all = append(all, o.DeepCopyObject().(Object))
		}
	}
	return all
}

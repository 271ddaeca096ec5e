package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// gather is how long the collector waits for further events before it inspects all
// objects.
const gather = 5 * time.Millisecond

// retry is how long the collector waits before it repeats what failed, for example
// while the disk is full.
const retry = time.Second

// collect handles the consequences of deletions until ctx ends: an object's dependents
// are deleted or orphaned, as its deletion requested, and the contents of a deleted
// namespace are deleted. It inspects all objects whenever one was removed, or one
// appeared that has an owner or is being deleted. Its work is idempotent, so after a
// crash between any two steps the rest is done.
func (s *Server) collect(ctx context.Context) error {
	kick := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	for _, k := range object.Kinds() {
		_, at := s.config.Store.List(k, "")
		w := s.config.Store.Watch(k, at)
		group.Go(func() error { return s.notice(ctx, k, w, kick) })
	}
	group.Go(func() error {
		for ctx.Err() == nil {
			var later <-chan time.Time
			switch changed, failed := s.sweep(); {
			case failed:
				later = time.After(retry)
			case changed:
				continue
			}
			select {
			case <-kick:
				time.Sleep(gather)
			case <-later:
			case <-ctx.Done():
			}
		}
		return nil
	})
	return group.Wait()
}

// notice wakes the collector when it may have something to do.
func (s *Server) notice(ctx context.Context, k *object.Kind, w *store.Watch, kick chan<- struct{}) error {
	for {
		events, err := w.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, fault.OutOfRange) { // the sweep inspects everything anyway
			_, at := s.config.Store.List(k, "")
			w = s.config.Store.Watch(k, at)
		}
		if err != nil || slices.ContainsFunc(events, concerns) {
			select {
			case kick <- struct{}{}:
			default:
			}
		}
	}
}

func concerns(e *store.Event) bool {
	return e.Type == store.Deleted || e.Object.GetDeletionTimestamp() != nil || e.Type == store.Added && len(e.Object.GetOwnerReferences()) > 0
}

// world is all objects, at about one moment.
type world struct {
	objects    []object.Object
	alive      map[types.UID]object.Object
	dependents map[types.UID][]object.Object
	failed     bool // some change of it
}

func (s *Server) world() *world {
	w := &world{alive: map[types.UID]object.Object{}, dependents: map[types.UID][]object.Object{}}
	// Dependents first: an owner that is created in between is alive, and the next
	// sweep sees one that is removed.
	for _, k := range object.Kinds() {
		objects, _ := s.config.Store.List(k, "")
		w.objects = append(w.objects, objects...)
	}
	for _, k := range object.Kinds() {
		objects, _ := s.config.Store.List(k, "")
		for _, o := range objects {
			w.alive[o.GetUID()] = o
		}
	}
	for _, o := range w.objects {
		for _, ref := range o.GetOwnerReferences() {
			w.dependents[ref.UID] = append(w.dependents[ref.UID], o)
		}
	}
	return w
}

// sweep does once what is due. It reports whether it changed anything, after which more
// may be due, and whether anything failed.
func (s *Server) sweep() (changed, failed bool) {
	w := s.world()
	return s.tidy(w), w.failed
}

// tidy does what is due in the given view. The next sweep handles later changes.
func (s *Server) tidy(w *world) (changed bool) {
	for _, o := range w.objects {
		switch {
		case o.GetDeletionTimestamp() != nil:
			changed = s.finalize(w, o) || changed
		case w.ownerless(o):
			changed = s.discard(w, o, asSeen(o), metav1.DeletePropagationBackground) || changed
		}
	}
	return changed
}

// ownerless reports whether the object had owners of kinds that are kept here, and all
// of them are gone.
func (w *world) ownerless(o object.Object) bool {
	refs := o.GetOwnerReferences()
	for _, ref := range refs {
		if elsewhere(&ref) || w.alive[ref.UID] != nil {
			return false
		}
	}
	return len(refs) > 0
}

// elsewhere reports whether the owner is of a kind that the node does not keep, so that
// nobody here can say that it is gone.
func elsewhere(ref *metav1.OwnerReference) bool {
	return object.KindFor(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)) == nil
}

// kept reports whether the object has an owner other than the given one that exists and
// does not wait for its dependents to be deleted.
func (w *world) kept(o object.Object, other types.UID) bool {
	return slices.ContainsFunc(o.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
		owner := w.alive[ref.UID]
		switch {
		case ref.UID == other:
			return false
		case owner == nil:
			return elsewhere(&ref)
		}
		return owner.GetDeletionTimestamp() == nil || !slices.Contains(owner.GetFinalizers(), metav1.FinalizerDeleteDependents)
	})
}

// finalize does what a terminating object waits for.
func (s *Server) finalize(w *world, o object.Object) (changed bool) {
	if slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents) {
		released := true
		for _, d := range w.dependents[o.GetUID()] {
			released = s.release(w, d, o.GetUID()) && released
		}
		return released && s.unfinalize(w, o, metav1.FinalizerOrphanDependents) // or dependents that were not orphaned would be deleted with it
	}
	if slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents) {
		return s.finalizeForeground(w, o)
	}
	if ns, ok := o.(*v1.Namespace); ok && slices.Contains(ns.Spec.Finalizers, v1.FinalizerKubernetes) {
		return s.finalizeNamespace(w, ns)
	}
	return false
}

// finalizeForeground deletes the dependents, except those that another owner keeps, and
// removes the finalizer when none is left that blocks the deletion.
func (s *Server) finalizeForeground(w *world, o object.Object) (changed bool) {
	blocked := false
	for _, d := range w.dependents[o.GetUID()] {
		if d.GetDeletionTimestamp() == nil && w.kept(d, o.GetUID()) {
			released := s.release(w, d, o.GetUID())
			blocked = blocked || !released
			changed = released || changed
			continue
		}
		for _, ref := range d.GetOwnerReferences() {
			blocked = blocked || ref.UID == o.GetUID() && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
		}
		if d.GetDeletionTimestamp() == nil {
			changed = s.discard(w, d, asSeen(d), metav1.DeletePropagationForeground) || changed
		}
	}
	if blocked {
		return changed
	}
	return s.unfinalize(w, o, metav1.FinalizerDeleteDependents)
}

func (s *Server) finalizeNamespace(w *world, ns *v1.Namespace) (changed bool) {
	empty := true
	for _, o := range w.objects {
		if o.GetNamespace() != ns.Name {
			continue
		}
		empty = false
		if o.GetDeletionTimestamp() == nil {
			changed = s.discard(w, o, itself(o), metav1.DeletePropagationBackground) || changed
		}
	}
	if !empty || s.holds(ns.Name) {
		return changed
	}
	return s.rewrite(w, ns, "finalize", func(o object.Object) { o.(*v1.Namespace).Spec.Finalizers = nil })
}

// holds reports whether the namespace contains anything now. A terminating namespace
// accepts nothing new, so once it is empty it stays so. An earlier view may be from
// before it was terminating.
func (s *Server) holds(namespace string) bool {
	for _, k := range object.Kinds() {
		if !k.Namespaced {
			continue
		}
		if objects, _ := s.config.Store.List(k, namespace); len(objects) > 0 {
			return true
		}
	}
	return false
}

// asSeen returns the preconditions of a deletion that follows from an object's
// contents: its owners may have changed since, or it may have been written again.
func asSeen(o object.Object) *metav1.Preconditions {
	p, revision := itself(o), o.GetResourceVersion()
	p.ResourceVersion = &revision
	return p
}

// itself returns the preconditions of any other deletion: the object itself, and no
// other of its name.
func itself(o object.Object) *metav1.Preconditions {
	uid := o.GetUID()
	return &metav1.Preconditions{UID: &uid}
}

// discard deletes an object on behalf of the collector.
func (s *Server) discard(w *world, o object.Object, only *metav1.Preconditions, policy metav1.DeletionPropagation) bool {
	k, err := object.KindOf(o)
	if err == nil {
		_, _, err = s.remove(target{kind: k, namespace: o.GetNamespace(), name: o.GetName()},
			&metav1.DeleteOptions{Preconditions: only, PropagationPolicy: &policy})
	}
	return s.done(w, "deleting what is not wanted any more", o, err)
}

// release removes an owner from an object.
func (s *Server) release(w *world, o object.Object, owner types.UID) bool {
	return s.rewrite(w, o, "", func(o object.Object) {
		o.SetOwnerReferences(slices.DeleteFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == owner }))
	})
}

func (s *Server) unfinalize(w *world, o object.Object, name string) bool {
	return s.rewrite(w, o, "", func(o object.Object) {
		o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return f == name }))
	})
}

// rewrite changes an object on behalf of the collector.
func (s *Server) rewrite(w *world, o object.Object, subresource string, change func(object.Object)) bool {
	k, err := object.KindOf(o)
	if err == nil {
		e := &edit{target: target{kind: k, namespace: o.GetNamespace(), name: o.GetName(), subresource: subresource}, manager: "nodekit"}
		_, err = s.change(e, func(old object.Object) (object.Object, error) {
			if old.GetUID() != o.GetUID() {
				return nil, notFound(e.target)
			}
			next := old.DeepCopyObject().(object.Object)
			change(next)
			return next, nil
		})
	}
	return s.done(w, "letting go of an object", o, err)
}

// done reports whether a step is complete, which includes that the object is gone.
func (s *Server) done(w *world, what string, o object.Object, err error) bool {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return true
	}
	w.failed = true
	s.log.Error(what, "object", object.Name(o), "err", err)
	return false
}

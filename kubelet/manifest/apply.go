package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Store is the store that manifests are applied to.
type Store interface {
	Create(context.Context, Object) error
	Update(context.Context, Object) error
	Delete(context.Context, Object) error
	// End marks a Pod as terminating; nil means its own grace period.
	End(ctx context.Context, pod types.NamespacedName, grace *int64) error
	// All returns the objects of all kinds that files may contain.
	All(context.Context) ([]Object, error)
}

// Desired is the content of a manifest directory.
type Desired struct {
	Files map[string][]Object // by file name
	// Keep are files that cannot be read at the moment: their objects are kept.
	Keep map[string]bool
}

// Apply updates the store to what is desired, as far as that is possible at once: a Pod
// that has changed is terminated, and created again by an Apply after its object is
// gone. Apply never touches objects that did not come from files, including copies of
// those that did. If the file is gone, a Pod is terminated; a volume, a claim or a
// snapshot is kept, for its data; other objects are deleted. Apply may be repeated,
// also after a crash.
func Apply(ctx context.Context, store Store, want *Desired) error {
	all, err := store.All(ctx)
	if err != nil {
		return &undone{fmt.Errorf("reading what there is: %w", err)}
	}
	have := map[string]Object{}
	for _, o := range all {
		have[object.Name(o)] = o
	}
	a := &applier{ctx: ctx, store: store, have: have, wanted: map[string]string{}}
	for _, pods := range []bool{false, true} { // first what Pods refer to
		for _, file := range slices.Sorted(maps.Keys(want.Files)) {
			for _, o := range want.Files[file] {
				if _, isPod := o.(*v1.Pod); isPod == pods {
					a.note(file, a.put(file, o))
				}
			}
		}
	}
	for key, o := range have {
		file := o.GetAnnotations()[pod.AnnotationFile]
		if _, wanted := a.wanted[key]; !wanted && fromFile(o) && file != "" && !want.Keep[file] {
			a.note(file, a.drop(o))
		}
	}
	return errors.Join(a.errs...)
}

type applier struct {
	ctx    context.Context
	store  Store
	have   map[string]Object
	wanted map[string]string // the file that wants the object
	errs   []error
}

func (a *applier) note(file string, err error) {
	if err == nil || errors.Is(err, fault.NotFound) { // being gone already is no problem
		return
	}
	err = fmt.Errorf("%s: %w", file, err)
	switch fault.Of(err) {
	case fault.Invalid, fault.AlreadyExists, fault.PermissionDenied, fault.Exhausted: // until somebody changes something
	default:
		err = &undone{err}
	}
	a.errs = append(a.errs, err)
}

// undone is an error that a retry may resolve.
type undone struct{ error }

func (u *undone) Unwrap() error { return u.error }

// unfinished reports whether a retry may help.
func unfinished(err error) bool {
	var u *undone
	return errors.As(err, &u)
}

func (a *applier) put(file string, o Object) error {
	key := object.Name(o)
	if other, taken := a.wanted[key]; taken {
		return fault.AlreadyExists.Errorf("%s is in file %q as well: that one is used", key, other)
	}
	a.wanted[key] = file
	marked := mark(file, o)
	have := a.have[key]
	switch {
	case have == nil:
		return a.store.Create(a.ctx, marked)
	case !fromFile(have):
		return fault.AlreadyExists.Errorf("%s exists and did not come from a file: remove one of them", key)
	case have.GetAnnotations()[pod.AnnotationHashOf] == marked.GetAnnotations()[pod.AnnotationHashOf]:
		return a.name(have)
	}
	if p, ok := have.(*v1.Pod); ok {
		return a.end(p)
	}
	keepBinding(have, marked)
	marked.SetResourceVersion(have.GetResourceVersion())
	return a.store.Update(a.ctx, marked)
}

// fromFile reports whether the object came from a file. A user's copy of such an object
// has its annotations, too, but another name. An object applied by an older version of
// this program does not record its name, and counts as from a file.
func fromFile(o Object) bool {
	of, named := o.GetAnnotations()[pod.AnnotationFileOf]
	return o.GetAnnotations()[pod.AnnotationSource] == "file" && (!named || of == object.Name(o))
}

// name records the name of an object that an older version applied, so that copies made
// from now on are recognized.
func (a *applier) name(o Object) error {
	if o.GetAnnotations()[pod.AnnotationFileOf] != "" || o.GetDeletionTimestamp() != nil {
		return nil
	}
	next := o.DeepCopyObject().(Object)
	next.GetAnnotations()[pod.AnnotationFileOf] = object.Name(o)
	return a.store.Update(a.ctx, next)
}

func (a *applier) drop(o Object) error {
	switch o := o.(type) {
	case *v1.Pod:
		return a.end(o)
	case *v1.Namespace:
		if object.Permanent(o.Name) {
			return nil
		}
	case *v1.PersistentVolumeClaim, *v1.PersistentVolume, *snapshotv1.VolumeSnapshot, *snapshotv1.VolumeSnapshotContent:
		return nil
	}
	return a.store.Delete(a.ctx, o)
}

func (a *applier) end(p *v1.Pod) error {
	if p.DeletionTimestamp != nil {
		return nil
	}
	return a.store.End(a.ctx, types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, nil)
}

// mark returns a copy of o that records where it came from.
func mark(file string, o Object) Object {
	marked := o.DeepCopyObject().(Object)
	data, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("encoding %s, which was decoded: %v", object.Name(o), err))
	}
	sum := sha256.Sum256(data)
	annotations := maps.Clone(o.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[pod.AnnotationSource] = "file"
	annotations[pod.AnnotationFile] = file
	annotations[pod.AnnotationFileOf] = object.Name(o)
	annotations[pod.AnnotationHashOf] = hex.EncodeToString(sum[:16])
	marked.SetAnnotations(annotations)
	return marked
}

// keepBinding copies what the node wrote into a claim or a volume.
func keepBinding(have, next Object) {
	switch next := next.(type) {
	case *v1.PersistentVolumeClaim:
		old := have.(*v1.PersistentVolumeClaim)
		if next.Spec.VolumeName == "" {
			next.Spec.VolumeName = old.Spec.VolumeName
		}
		if next.Spec.StorageClassName == nil {
			next.Spec.StorageClassName = old.Spec.StorageClassName
		}
		next.Status = *old.Status.DeepCopy()
	case *v1.PersistentVolume:
		old := have.(*v1.PersistentVolume)
		if next.Spec.ClaimRef == nil {
			next.Spec.ClaimRef = old.Spec.ClaimRef.DeepCopy()
		}
		next.Status = *old.Status.DeepCopy()
	}
	for key, value := range have.GetAnnotations() {
		if _, ok := next.GetAnnotations()[key]; !ok {
			next.GetAnnotations()[key] = value
		}
	}
	next.SetFinalizers(slices.Clone(have.GetFinalizers()))
}

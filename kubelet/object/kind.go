package object

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Kind is a kind of object that a node keeps.
type Kind struct {
	schema.GroupVersionKind
	// Resource is the kind's name in paths, as in "pods". Singular is its singular.
	Resource, Singular string
	ShortNames         []string
	// All is set for kinds that "kubectl get all" shows.
	All        bool
	Namespaced bool
	// Status is set for kinds with a status subresource.
	Status bool
	// InFiles is set for kinds that manifest files may contain. The others are written
	// by the node itself, or by clients of its API.
	InFiles bool

	example Object
}

// New returns an empty object of the kind.
func (k *Kind) New() Object {
	return reflect.New(reflect.TypeOf(k.example).Elem()).Interface().(Object)
}

// NewList returns an empty list of the kind.
func (k *Kind) NewList() runtime.Object {
	list, err := Scheme().New(k.GroupVersion().WithKind(k.Kind + "List"))
	if err != nil {
		panic("the scheme has no list of " + k.Kind + ": " + err.Error())
	}
	return list
}

// Key returns the kind's key in a store: the kind, with its group unless that is core.
func (k *Kind) Key() string { return k.GroupKind().String() }

// GroupResource returns the group and the resource, as used in errors.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// kind sets what follows from the Go type and the group.
func kind(gv schema.GroupVersion, o Object, resource string, k Kind) *Kind {
	name := reflect.TypeOf(o).Elem().Name()
	k.GroupVersionKind, k.Resource, k.Singular, k.example = gv.WithKind(name), resource, strings.ToLower(name), o
	return &k
}

var table = sync.OnceValue(func() []*Kind {
	core, storage, snapshots := v1.SchemeGroupVersion, storagev1.SchemeGroupVersion, snapshotv1.SchemeGroupVersion
	return []*Kind{
		kind(core, &v1.ConfigMap{}, "configmaps", Kind{ShortNames: []string{"cm"}, Namespaced: true, InFiles: true}),
		kind(core, &v1.Event{}, "events", Kind{ShortNames: []string{"ev"}, Namespaced: true}),
		kind(core, &v1.Namespace{}, "namespaces", Kind{ShortNames: []string{"ns"}, Status: true, InFiles: true}),
		kind(core, &v1.Node{}, "nodes", Kind{ShortNames: []string{"no"}, Status: true}),
		kind(core, &v1.PersistentVolume{}, "persistentvolumes", Kind{ShortNames: []string{"pv"}, Status: true, InFiles: true}),
		kind(core, &v1.PersistentVolumeClaim{}, "persistentvolumeclaims", Kind{ShortNames: []string{"pvc"}, Namespaced: true, Status: true, InFiles: true}),
		kind(core, &v1.Pod{}, "pods", Kind{ShortNames: []string{"po"}, All: true, Namespaced: true, Status: true, InFiles: true}),
		kind(core, &v1.Secret{}, "secrets", Kind{Namespaced: true, InFiles: true}),
		kind(core, &v1.ServiceAccount{}, "serviceaccounts", Kind{ShortNames: []string{"sa"}, Namespaced: true, InFiles: true}),
		kind(coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{}, "leases", Kind{Namespaced: true}),
		kind(nodev1.SchemeGroupVersion, &nodev1.RuntimeClass{}, "runtimeclasses", Kind{InFiles: true}),
		kind(schedulingv1.SchemeGroupVersion, &schedulingv1.PriorityClass{}, "priorityclasses", Kind{ShortNames: []string{"pc"}, InFiles: true}),
		kind(snapshots, &snapshotv1.VolumeSnapshot{}, "volumesnapshots", Kind{ShortNames: []string{"vs"}, Namespaced: true, Status: true, InFiles: true}),
		kind(snapshots, &snapshotv1.VolumeSnapshotClass{}, "volumesnapshotclasses", Kind{ShortNames: []string{"vsclass", "vsclasses"}, InFiles: true}),
		kind(snapshots, &snapshotv1.VolumeSnapshotContent{}, "volumesnapshotcontents", Kind{ShortNames: []string{"vsc", "vscs"}, Status: true, InFiles: true}),
		kind(storage, &storagev1.CSIDriver{}, "csidrivers", Kind{InFiles: true}),
		kind(storage, &storagev1.CSINode{}, "csinodes", Kind{}),
		kind(storage, &storagev1.StorageClass{}, "storageclasses", Kind{ShortNames: []string{"sc"}, InFiles: true}),
		kind(storage, &storagev1.VolumeAttachment{}, "volumeattachments", Kind{Status: true}),
	}
})

// Kinds returns all kinds, by group and then by name. The caller may change the
// list, not the kinds.
func Kinds() []*Kind { return slices.Clone(table()) }

// KindOf returns the kind of an object's Go type, or fault.Invalid if no node keeps
// such objects.
func KindOf(o Object) (*Kind, error) {
	t := reflect.TypeOf(o)
	for _, k := range table() {
		if reflect.TypeOf(k.example) == t {
			return k, nil
		}
	}
	return nil, fault.Invalid.Errorf("%T is not a kind that a node keeps", o)
}

// KindFor returns the kind with the group, version and kind, or nil.
func KindFor(gvk schema.GroupVersionKind) *Kind {
	for _, k := range table() {
		if k.GroupVersionKind == gvk {
			return k
		}
	}
	return nil
}

// Scheme returns the scheme of all kinds, their lists, and the types that subresources
// accept and return. It is created once and never changed.
func Scheme() *runtime.Scheme { return scheme() }

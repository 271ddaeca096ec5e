package api

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func (s *Server) update(w http.ResponseWriter, r *http.Request, t target) error {
	var opts metav1.UpdateOptions
	if err := s.options(r, &opts); err != nil {
		return err
	}
	e, err := newEdit(r, t, opts.DryRun, opts.FieldManager, opts.FieldValidation)
	if err != nil {
		return err
	}
	sent, err := s.read(w, r, e)
	if err != nil {
		return err
	}
	o, err := s.change(e, func(object.Object) (object.Object, error) { return sent.DeepCopyObject().(object.Object), nil })
	if err != nil {
		return err
	}
	return s.sendObject(w, r, http.StatusOK, t.kind, o)
}

// errStale says that an object has changed while a change of it was prepared.
var errStale = errors.New("changed meanwhile")

// change stores the result of next for an object. next is called again if another
// change came first, and must not modify its argument. A change for a certain
// resourceVersion or UID is a conflict if the stored object has another.
func (s *Server) change(e *edit, next func(old object.Object) (object.Object, error)) (object.Object, error) {
	for {
		old, err := s.config.Store.Get(e.kind, e.namespace, e.name)
		if err != nil {
			return nil, notFound(e.target)
		}
		o, err := next(old)
		if err != nil {
			return nil, err
		}
		if o, err = s.settle(e, o, old); err != nil {
			return nil, err
		}
		made, err := s.config.Store.Write(e.kind, e.namespace, e.name, func(now store.Object) (store.Object, error) {
			switch {
			case now == nil:
				return nil, notFound(e.target)
			case now != old:
				return nil, errStale
			case o != old && over(o):
				return nil, nil
			}
			return o, nil
		}, store.WriteOptions{DryRun: e.dryRun, Lazy: lazy(e, o, old)})
		if !errors.Is(err, errStale) {
			return made, err
		}
	}
}

// over reports whether the object was kept only for finalizers that are gone now.
func over(o object.Object) bool {
	if o.GetDeletionTimestamp() == nil || len(o.GetFinalizers()) > 0 {
		return false
	}
	if ns, ok := o.(*v1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return false
	}
	grace := o.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// lazy reports whether the change may be lost in a crash that follows within a moment,
// because its author repeats it: a kubelet its statuses and leases, and a recorder of
// Events the next occurrence. A status is durable if it is final, or says that the Pod
// was admitted: nothing of the Pod may run before a restarted node would know that. So
// is a Lease that changes its holder.
func lazy(e *edit, o, old object.Object) bool {
	switch o := o.(type) {
	case *v1.Event:
		return true
	case *v1.Pod:
		old := old.(*v1.Pod)
		admitted := o.Status.StartTime != nil && old.Status.StartTime == nil
		return e.kubelet && e.subresource == "status" && !admitted && (!pod.Terminal(o.Status.Phase) || pod.Terminal(old.Status.Phase))
	case *v1.Node:
		return e.kubelet && e.subresource == "status"
	case *coordinationv1.Lease:
		return e.kubelet && equality.Semantic.DeepEqual(o.Spec.HolderIdentity, old.(*coordinationv1.Lease).Spec.HolderIdentity)
	}
	return false
}

// settle computes the object to store from what a client sent: it keeps what the
// request must not change, sets defaults and validates. It returns old itself if
// nothing changes.
func (s *Server) settle(e *edit, o, old object.Object) (object.Object, error) {
	if err := conflict(e, o, old); err != nil {
		return nil, err
	}
	o = merge(e, o, old)
	keepMeta(o, old)
	object.Default(o)
	if err := validate(e, o, old); err != nil {
		return nil, invalid(e.target, e.name, err)
	}
	if same(o, old) {
		return old, nil
	}
	if !equality.Semantic.DeepEqual(field(o, "Spec"), field(old, "Spec")) {
		o.SetGeneration(old.GetGeneration() + 1)
	}
	return s.managers.note(e, o, old), nil
}

// conflict checks that the change is for the object that is stored.
func conflict(e *edit, o, old object.Object) error {
	switch {
	case o.GetName() != "" && o.GetName() != old.GetName():
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) is not that of the request (%s)", o.GetName(), e.name))
	case o.GetNamespace() != "" && o.GetNamespace() != old.GetNamespace():
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) is not that of the request (%s)", o.GetNamespace(), e.namespace))
	case o.GetUID() != "" && o.GetUID() != old.GetUID():
		return apierrors.NewConflict(e.kind.GroupResource(), e.name, fmt.Errorf("the object with uid %s was replaced by another of its name, %s", o.GetUID(), old.GetUID()))
	case o.GetResourceVersion() != "" && o.GetResourceVersion() != old.GetResourceVersion():
		return apierrors.NewConflict(e.kind.GroupResource(), e.name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return nil
}

// merge keeps the parts of the stored object that the request does not change.
func merge(e *edit, o, old object.Object) object.Object {
	switch e.subresource {
	case "":
		if e.kind.Status {
			set(o, "Status", old)
		}
		switch o := o.(type) {
		case *v1.Pod:
			if o.Spec.NodeName == "" {
				o.Spec.NodeName = old.(*v1.Pod).Spec.NodeName // a client that applies may omit it
			}
		case *v1.Namespace:
			set(o, "Spec", old) // its finalizers, which only the subresource changes
		}
	case "status":
		set(o, "Spec", old)
		o.SetOwnerReferences(old.GetOwnerReferences())
	case "finalize":
		kept := old.DeepCopyObject().(*v1.Namespace)
		kept.Spec.Finalizers = o.(*v1.Namespace).Spec.Finalizers
		return kept
	case "ephemeralcontainers":
		kept := old.DeepCopyObject().(*v1.Pod)
		kept.Spec.EphemeralContainers = o.(*v1.Pod).Spec.EphemeralContainers
		return kept
	case "resize":
		kept := old.DeepCopyObject().(*v1.Pod)
		takeResources(&kept.Spec, &o.(*v1.Pod).Spec)
		return kept
	}
	return o
}

// takeResources copies the resources that a resize changes, by container name. A
// container that the Pod does not have is added as a whole, for validation to reject.
func takeResources(to, from *v1.PodSpec) {
	for _, pair := range [][2]*[]v1.Container{{&to.InitContainers, &from.InitContainers}, {&to.Containers, &from.Containers}} {
		have := map[string]*v1.Container{}
		for i := range *pair[0] {
			have[(*pair[0])[i].Name] = &(*pair[0])[i]
		}
		for _, c := range *pair[1] {
			if mine := have[c.Name]; mine != nil {
				mine.Resources, mine.ResizePolicy = c.Resources, c.ResizePolicy
			} else {
				*pair[0] = append(*pair[0], c)
			}
		}
	}
	to.Resources = from.Resources
}

// field returns a field of an object by its Go name, or nil if its kind has none.
func field(o object.Object, name string) any {
	if f := reflect.ValueOf(o).Elem().FieldByName(name); f.IsValid() {
		return f.Interface()
	}
	return nil
}

// set copies a field from another object.
func set(o object.Object, name string, from object.Object) {
	if f := reflect.ValueOf(o).Elem().FieldByName(name); f.IsValid() {
		f.Set(reflect.ValueOf(from.DeepCopyObject()).Elem().FieldByName(name))
	}
}

// keepMeta keeps the metadata that only the API sets.
func keepMeta(o, old object.Object) {
	o.SetName(old.GetName())
	o.SetNamespace(old.GetNamespace())
	o.SetUID(old.GetUID())
	o.SetResourceVersion(old.GetResourceVersion())
	o.SetGeneration(old.GetGeneration())
	o.SetCreationTimestamp(old.GetCreationTimestamp())
	o.SetDeletionTimestamp(old.GetDeletionTimestamp())
	o.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	o.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
}

func validate(e *edit, o, old object.Object) error {
	switch e.subresource {
	case "":
		return object.ValidateUpdate(o, old)
	case "status":
		return object.ValidateStatus(o, old)
	case "ephemeralcontainers":
		return object.ValidateEphemeral(o.(*v1.Pod), old.(*v1.Pod))
	case "resize":
		next, old := o.(*v1.Pod), old.(*v1.Pod)
		if is, was := pod.QOS(next), pod.QOS(old); is != was {
			return fmt.Errorf("spec.containers: with these resources its quality of service would be %s, and it is to stay %s", is, was)
		}
		return object.ValidateResize(next, old)
	}
	return nil
}

// same reports whether the objects differ only in their managed fields.
func same(o, old object.Object) bool {
	managed := o.GetManagedFields()
	o.SetManagedFields(old.GetManagedFields())
	equal := equality.Semantic.DeepEqual(o, old)
	o.SetManagedFields(managed)
	return equal && equality.Semantic.DeepEqual(managed, old.GetManagedFields())
}

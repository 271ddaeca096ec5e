package api

import (
	"errors"
	"fmt"
	"net/http"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func (s *Server) create(w http.ResponseWriter, r *http.Request, t target) error {
	var opts metav1.CreateOptions
	if err := s.options(r, &opts); err != nil {
		return err
	}
	e, err := newEdit(r, t, opts.DryRun, opts.FieldManager, opts.FieldValidation)
	if err != nil {
		return err
	}
	o, err := s.read(w, r, e)
	if err != nil {
		return err
	}
	if err := s.prepare(w, e, o); err != nil {
		return err
	}
	made, err := s.insert(e, o)
	if err != nil {
		return err
	}
	return s.sendObject(w, r, http.StatusCreated, t.kind, made)
}

// maxTries bounds the number of names that are tried for a generateName.
const maxTries = 8

// insert stores a new, prepared object, and its namespace before it. For a generateName
// it makes up the name.
func (s *Server) insert(e *edit, o object.Object) (object.Object, error) {
	generated := o.GetName() == ""
	for n := 1; ; n++ {
		if generated {
			o.SetName(o.GetGenerateName() + rand.String(5))
		}
		if err := object.Prepare(o); err != nil {
			return nil, invalid(e.target, o.GetName(), err)
		}
		if err := s.ensureNamespace(e, o.GetNamespace()); err != nil {
			return nil, err
		}
		made, err := s.config.Store.Write(e.kind, o.GetNamespace(), o.GetName(), func(old store.Object) (store.Object, error) {
			if old != nil {
				return nil, apierrors.NewAlreadyExists(e.kind.GroupResource(), o.GetName())
			}
			return o, s.stillOpen(e, o.GetNamespace())
		}, store.WriteOptions{DryRun: e.dryRun})
		if errors.Is(err, errStale) || apierrors.IsAlreadyExists(err) && generated && n < maxTries {
			continue
		}
		return made, err
	}
}

// prepare turns an object from a client into one that can be stored.
func (s *Server) prepare(w http.ResponseWriter, e *edit, o object.Object) error {
	if e.kind.Namespaced {
		if o.GetNamespace() == "" {
			o.SetNamespace(e.namespace)
		}
		if o.GetNamespace() != e.namespace || e.namespace == "" {
			return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) is not that of the request (%s)", o.GetNamespace(), e.namespace))
		}
	} else {
		o.SetNamespace("")
	}
	if o.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if o.GetName() == "" && o.GetGenerateName() == "" {
		return invalid(e.target, "", fmt.Errorf("metadata.name: is missing, and so is metadata.generateName"))
	}
	notices, err := object.Classify(asWritten(o))
	if err != nil {
		return invalid(e.target, o.GetName(), err)
	}
	for _, n := range notices {
		warn(w, n.Field+" has no effect: "+n.Why)
	}
	blank(o)
	switch o := o.(type) {
	case *v1.Pod:
		return s.placePod(e, o)
	case *v1.PersistentVolumeClaim:
		addFinalizer(o, object.ClaimProtection)
	case *v1.Namespace:
		o.Spec.Finalizers = []v1.FinalizerName{v1.FinalizerKubernetes}
	}
	return nil
}

// asWritten returns an object without its metadata, which either works here or is set
// by the server, and without the defaults of fields that have no effect: a client that
// sends back what it got must not be warned of them.
func asWritten(o object.Object) object.Object {
	p, ok := o.(*v1.Pod)
	if !ok {
		return o
	}
	p = p.DeepCopy()
	p.ObjectMeta = metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}
	p.Status, p.Spec.NodeName = v1.PodStatus{}, ""
	if p.Spec.SchedulerName == v1.DefaultSchedulerName {
		p.Spec.SchedulerName = ""
	}
	if links := p.Spec.EnableServiceLinks; links != nil && *links == v1.DefaultEnableServiceLinks {
		p.Spec.EnableServiceLinks = nil
	}
	return p
}

// blank drops the fields that only the API sets.
func blank(o object.Object) {
	o.SetUID("")
	o.SetGeneration(0)
	o.SetSelfLink("")
	o.SetCreationTimestamp(metav1.Time{})
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	o.SetManagedFields(nil)
	switch o := o.(type) {
	case *v1.Pod:
		o.Status = v1.PodStatus{Phase: v1.PodPending, QOSClass: pod.QOS(o)}
	case *v1.PersistentVolumeClaim:
		o.Status = v1.PersistentVolumeClaimStatus{}
	case *v1.PersistentVolume:
		o.Status = v1.PersistentVolumeStatus{}
	case *v1.Namespace:
		o.Status = v1.NamespaceStatus{}
	}
}

// placePod assigns the Pod to this node: no scheduler would.
func (s *Server) placePod(e *edit, p *v1.Pod) error {
	if p.Spec.NodeName != "" && p.Spec.NodeName != s.config.NodeName {
		return invalid(e.target, p.Name, fmt.Errorf("spec.nodeName: this is node %q, and there is no other: leave it out", s.config.NodeName))
	}
	p.Spec.NodeName = s.config.NodeName
	return nil
}

// ensureNamespace creates the namespace of a new object if it does not exist: on a
// single node nobody else would. An Event does not create one: it is about the past,
// and would bring back a deleted namespace with nothing else in it. Permanent
// namespaces accept Events nevertheless.
func (s *Server) ensureNamespace(e *edit, name string) error {
	if name == "" {
		return nil
	}
	kind := find(schema.GroupVersion{Version: "v1"}, "namespaces")
	_, err := s.config.Store.Write(kind, "", name, func(old store.Object) (store.Object, error) {
		if old != nil {
			return old, open(e, old)
		}
		if e.kind.Kind == "Event" && !object.Permanent(name) {
			return nil, apierrors.NewNotFound(kind.GroupResource(), name)
		}
		ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.NamespaceSpec{Finalizers: []v1.FinalizerName{v1.FinalizerKubernetes}}}
		if err := object.Prepare(ns); err != nil {
			return nil, invalid(target{kind: kind, name: name}, name, err)
		}
		return ns, nil
	}, store.WriteOptions{DryRun: e.dryRun})
	return err
}

// open returns the error for a terminating namespace, which accepts nothing new.
func open(e *edit, ns object.Object) error {
	if ns.GetDeletionTimestamp() == nil {
		return nil
	}
	err := apierrors.NewForbidden(e.kind.GroupResource(), e.name, fmt.Errorf("namespace %s is being terminated: wait until it is gone", ns.GetName()))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: v1.NamespaceTerminatingCause, Message: err.ErrStatus.Message, Field: "metadata.namespace"}}
	return err
}

// stillOpen checks the namespace again in the transaction that adds to it. It returns
// errStale if the namespace has been removed since ensureNamespace.
func (s *Server) stillOpen(e *edit, name string) error {
	if name == "" {
		return nil
	}
	ns, err := s.config.Store.Get(find(schema.GroupVersion{Version: "v1"}, "namespaces"), "", name)
	switch {
	case err == nil:
		return open(e, ns)
	case e.dryRun: // which creates none
		return nil
	}
	return errStale
}

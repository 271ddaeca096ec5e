package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

func (s *Server) delete(w http.ResponseWriter, r *http.Request, t target) error {
	opts, err := s.deleteOptions(r)
	if err != nil {
		return err
	}
	o, gone, err := s.remove(t, opts)
	if err != nil {
		return err
	}
	if !gone || t.kind.Kind == "Pod" { // as in an API server, which returns a Pod as it was
		code := http.StatusOK
		if !gone && t.kind.Kind != "Pod" {
			code = http.StatusAccepted
		}
		return s.sendObject(w, r, code, t.kind, o)
	}
	return s.send(w, r, http.StatusOK, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: t.name, Group: t.kind.Group, Kind: t.kind.Resource, UID: o.GetUID()},
	})
}

// deleteOptions reads the options in the query; those in the body override them.
func (s *Server) deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	var opts metav1.DeleteOptions
	if err := s.options(r, &opts); err != nil {
		return nil, err
	}
	if err := s.decode(r, &opts); err != nil {
		return nil, err
	}
	return &opts, sane(&opts)
}

// sane validates options.
func sane(opts *metav1.DeleteOptions) error {
	if g := opts.GracePeriodSeconds; g != nil && *g < 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("gracePeriodSeconds %d is negative", *g))
	}
	known := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}
	if p := opts.PropagationPolicy; p != nil && !slices.Contains(known, *p) {
		return apierrors.NewBadRequest(fmt.Sprintf("propagationPolicy %q is none of Background, Foreground, Orphan", *p))
	}
	return nil
}

// remove deletes an object, or marks it as terminating if it has finalizers or is a Pod
// with a grace period, which the kubelet deletes when it has ended.
func (s *Server) remove(t target, opts *metav1.DeleteOptions) (o object.Object, gone bool, err error) {
	dry, err := isDryRun(opts.DryRun)
	if err != nil {
		return nil, false, err
	}
	o, err = s.config.Store.Write(t.kind, t.namespace, t.name, func(old store.Object) (store.Object, error) {
		if old == nil {
			return nil, notFound(t)
		}
		if err := precondition(t, old, opts.Preconditions); err != nil {
			return nil, err
		}
		if t.kind.Kind == "Namespace" && object.Permanent(t.name) {
			return nil, apierrors.NewForbidden(t.kind.GroupResource(), t.name, errors.New("this namespace may not be deleted: delete what is in it"))
		}
		next := ending(old, opts, time.Now())
		if gone = over(next); gone {
			return nil, nil
		}
		if same(next, old) {
			return old, nil
		}
		return next, nil
	}, store.WriteOptions{DryRun: dry})
	return o, gone, err
}

func precondition(t target, o object.Object, p *metav1.Preconditions) error {
	switch {
	case p == nil:
	case p.UID != nil && *p.UID != o.GetUID():
		return apierrors.NewConflict(t.kind.GroupResource(), t.name, fmt.Errorf("its uid is %s, not %s", o.GetUID(), *p.UID))
	case p.ResourceVersion != nil && *p.ResourceVersion != o.GetResourceVersion():
		return apierrors.NewConflict(t.kind.GroupResource(), t.name, errors.New("it was changed meanwhile"))
	}
	return nil
}

// ending returns the object marked as terminating. The grace period of one that is
// terminating already can only shrink.
func ending(old object.Object, opts *metav1.DeleteOptions, now time.Time) object.Object {
	next := old.DeepCopyObject().(object.Object)
	if p := opts.PropagationPolicy; p != nil {
		propagate(next, *p)
	}
	seconds := int64(0)
	if p, ok := old.(*v1.Pod); ok {
		seconds = graceOf(p, opts.GracePeriodSeconds)
	}
	// deletionTimestamp is the end of the grace period, as in the Kubernetes API.
	at := metav1.NewTime(now.Add(time.Duration(seconds) * time.Second)).Rfc3339Copy()
	if d := old.GetDeletionTimestamp(); d != nil {
		// Grace periods are compared, not times: the clock may have been set in
		// between.
		was := *old.GetDeletionGracePeriodSeconds()
		if seconds >= was {
			return next
		}
		at = metav1.NewTime(d.Add(time.Duration(seconds-was) * time.Second))
	}
	next.SetDeletionTimestamp(&at)
	next.SetDeletionGracePeriodSeconds(&seconds)
	next.SetGeneration(old.GetGeneration() + 1)
	if ns, ok := next.(*v1.Namespace); ok {
		ns.Status.Phase = v1.NamespaceTerminating
	}
	return next
}

// propagate records what happens to the object's dependents, instead of an earlier
// request.
func propagate(o object.Object, policy metav1.DeletionPropagation) {
	finalizer := map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationOrphan: metav1.FinalizerOrphanDependents, metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents,
	}[policy]
	o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool {
		return f != finalizer && (f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents)
	}))
	if finalizer != "" {
		addFinalizer(o, finalizer)
	}
}

// graceOf returns the grace period, in seconds, of a Pod that is to terminate; nil asks
// for the Pod's own. A finished Pod needs none.
func graceOf(p *v1.Pod, asked *int64) int64 {
	switch {
	case pod.Terminal(p.Status.Phase):
		return 0
	case asked != nil:
		return *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		return *p.Spec.TerminationGracePeriodSeconds
	}
	return v1.DefaultTerminationGracePeriodSeconds
}

func addFinalizer(o object.Object, name string) {
	if !slices.Contains(o.GetFinalizers(), name) {
		o.SetFinalizers(append(o.GetFinalizers(), name))
	}
}

func (s *Server) deleteCollection(w http.ResponseWriter, r *http.Request, t target) error {
	var list metav1.ListOptions
	if err := s.options(r, &list); err != nil {
		return err
	}
	opts, err := s.deleteOptions(r)
	if err != nil {
		return err
	}
	objects, _, err := s.find(t, &list)
	if err != nil {
		return err
	}
	for _, o := range objects {
		_, _, err := s.remove(target{kind: t.kind, namespace: o.GetNamespace(), name: o.GetName()}, opts)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return s.send(w, r, http.StatusOK, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
}

// evict deletes a Pod. There are no disruption budgets on one node.
func (s *Server) evict(w http.ResponseWriter, r *http.Request, t target) error {
	if r.Method != http.MethodPost {
		return notAllowed(r, t)
	}
	if _, err := s.accepted(r); err != nil { // before anything changes
		return err
	}
	var create metav1.CreateOptions
	if err := s.options(r, &create); err != nil {
		return err
	}
	var e policyv1.Eviction
	if err := s.decode(r, &e); err != nil {
		return err
	}
	opts := e.DeleteOptions
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	if err := sane(opts); err != nil {
		return err
	}
	if e.Name != "" && e.Name != t.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the eviction (%s) is not that of the request (%s)", e.Name, t.name))
	}
	opts.DryRun = append(opts.DryRun, create.DryRun...)
	if _, _, err := s.remove(t, opts); err != nil {
		return err
	}
	return s.send(w, r, http.StatusCreated, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
}

// bind rejects the request of a scheduler.
func (s *Server) bind(_ http.ResponseWriter, _ *http.Request, t target) error {
	return apierrors.NewConflict(t.kind.GroupResource(), t.name, fmt.Errorf("it is on node %q already, where every Pod is", s.config.NodeName))
}

package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

func (s *Server) get(w http.ResponseWriter, r *http.Request, t target) error {
	o, err := s.config.Store.Get(t.kind, t.namespace, t.name)
	if err != nil {
		return notFound(t)
	}
	return s.sendObject(w, r, http.StatusOK, t.kind, o)
}

// list returns all selected objects, always the newest: a limit is not needed on a
// single node, and the newest state is not older than any requested resourceVersion,
// unless that was never given out.
func (s *Server) list(w http.ResponseWriter, r *http.Request, t target) error {
	var o metav1.ListOptions
	if err := s.options(r, &o); err != nil {
		return err
	}
	objects, revision, err := s.find(t, &o)
	if err != nil {
		return err
	}
	if revision, err = s.asOf(r, t, &o, revision); err != nil {
		return err
	}
	as, err := s.accepted(r)
	if err != nil {
		return err
	}
	shaped, err := many(t.kind, objects, strconv.FormatUint(revision, 10), as, include(r))
	if err != nil {
		return err
	}
	return s.sendAs(w, as, http.StatusOK, shaped)
}

// find returns the objects that the options select, by namespace and name, and their
// revision.
func (s *Server) find(t target, o *metav1.ListOptions) ([]object.Object, uint64, error) {
	sel, err := selected(t, o)
	if err != nil {
		return nil, 0, err
	}
	objects, revision := s.config.Store.List(t.kind, t.namespace)
	objects = slices.DeleteFunc(objects, func(o object.Object) bool { return !sel.matches(o) })
	slices.SortFunc(objects, func(a, b object.Object) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objects, revision, nil
}

// asOf returns the revision of a list read at have: that one, or exactly the requested
// one if nothing of the kind has changed since.
func (s *Server) asOf(r *http.Request, t target, o *metav1.ListOptions, have uint64) (uint64, error) {
	if err := matchable(o, false); err != nil {
		return 0, err
	}
	at, err := revisionIn(o.ResourceVersion)
	switch {
	case err != nil:
		return 0, err
	case at > have:
		return 0, tooLarge(at, have)
	case o.ResourceVersionMatch != metav1.ResourceVersionMatchExact:
		return have, nil
	}
	now, cancel := context.WithCancel(r.Context())
	cancel() // past changes, not future ones
	events, err := s.config.Store.Watch(t.kind, at).Next(now)
	if errors.Is(err, fault.OutOfRange) || len(events) > 0 && events[0].Revision <= have {
		return 0, apierrors.NewResourceExpired(fmt.Sprintf("what the %s were at resourceVersion %d is not known any more: list them as they are", t.kind.Resource, at))
	}
	return at, nil
}

// matchable checks a resourceVersionMatch.
func matchable(o *metav1.ListOptions, watch bool) error {
	switch m := o.ResourceVersionMatch; {
	case m == "":
	case m != metav1.ResourceVersionMatchExact && m != metav1.ResourceVersionMatchNotOlderThan:
		return apierrors.NewBadRequest(fmt.Sprintf("resourceVersionMatch %q is none of Exact, NotOlderThan", m))
	case watch && m == metav1.ResourceVersionMatchExact:
		return apierrors.NewBadRequest("resourceVersionMatch=Exact is for lists")
	case !watch && o.ResourceVersion == "":
		return apierrors.NewBadRequest("resourceVersionMatch needs a resourceVersion")
	case m == metav1.ResourceVersionMatchExact && o.ResourceVersion == "0":
		return apierrors.NewBadRequest("resourceVersionMatch=Exact needs a resourceVersion other than 0")
	}
	return nil
}

// tooLarge returns the error for a resourceVersion from the future, which client-go
// recognizes by its cause: the client's view is of another store.
func tooLarge(asked, have uint64) error {
	err := newTimeout(fmt.Sprintf("Too large resource version: %d, current: %d", asked, have))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

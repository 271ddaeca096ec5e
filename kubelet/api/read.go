package api

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

func (s *Server) get(w http.ResponseWriter, r *http.Request, t target) error {
	o, err := s.config.Store.Get(t.kind, t.namespace, t.name)
	if err != nil {
		return notFound(t)
	}
	return s.sendObject(w, r, http.StatusOK, t.kind, o)
}

// list answers with all objects that are selected, always the newest: a limit
// is not needed on one node, and what is newest is not older than what any
// resourceVersion asks for, unless that was never given out.
func (s *Server) list(w http.ResponseWriter, r *http.Request, t target) error {
	var o metav1.ListOptions
	if err := s.options(r, &o); err != nil {
		return err
	}
	objects, revision, err := s.find(t, &o)
	if err != nil {
		return err
	}
	if at, err := revisionIn(o.ResourceVersion); err != nil || at > revision {
		return cmp.Or(err, error(tooLarge(at, revision)))
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

// find returns the objects that the options select, by namespace and name, and
// the revision at which they were so.
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

// tooLarge is the error for a resourceVersion from the future, which client-go
// knows by its cause: the client's own view is of another store.
func tooLarge(asked, have uint64) error {
	err := newTimeout(fmt.Sprintf("Too large resource version: %d, current: %d", asked, have))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

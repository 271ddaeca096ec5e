package api

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// refuse serves a resource that is not kept. If users are known to try it, reading
// finds nothing, and writing returns what to do instead.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, gr schema.GroupVersionResource, name string) error {
	known := refused(gr)
	switch {
	case known == nil:
		return apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, gr.GroupResource(), name, "a node keeps no "+gr.GroupResource().String(), 0, true)
	case r.Method == http.MethodGet && name != "":
		return apierrors.NewNotFound(gr.GroupResource(), name)
	case r.Method == http.MethodGet && !isWatch(r):
		return s.sendNone(w, r, known)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: known.Kind + " is not supported: " + known.Why,
	}}
}

func refused(gvr schema.GroupVersionResource) *object.Refused {
	for _, r := range object.RefusedKinds() {
		if r.GroupVersion() == gvr.GroupVersion() && r.Resource == gvr.Resource {
			return &r
		}
	}
	return nil
}

// sendNone sends an empty list.
func (s *Server) sendNone(w http.ResponseWriter, r *http.Request, known *object.Refused) error {
	as, err := s.accepted(r)
	if err != nil {
		return err
	}
	var list runtime.Object = &metav1.List{
		TypeMeta: metav1.TypeMeta{Kind: known.Kind + "List", APIVersion: known.GroupVersion().String()}, Items: []runtime.RawExtension{},
	}
	if as.as == "Table" {
		list = &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, Rows: []metav1.TableRow{}}
	}
	return s.sendJSON(w, list)
}

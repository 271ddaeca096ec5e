package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/api/table"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// write sends bytes. It ignores that a client has disconnected.
func (s *Server) write(w http.ResponseWriter, code int, media string, data []byte) {
	w.Header().Set("Content-Type", media)
	w.WriteHeader(code)
	if _, err := w.Write(data); err != nil {
		s.log.Debug("answering a client that left", "err", err)
	}
}

// send sends an object as it is, in the media type of the request.
func (s *Server) send(w http.ResponseWriter, r *http.Request, code int, o runtime.Object) error {
	as, err := s.accepted(r)
	if err != nil {
		return err
	}
	return s.sendAs(w, as, code, o)
}

func (s *Server) sendAs(w http.ResponseWriter, as shape, code int, o runtime.Object) error {
	var out bytes.Buffer
	if err := as.info.Serializer.Encode(o, &out); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	s.write(w, code, as.media, out.Bytes())
	return nil
}

// sendJSON sends a value that has no kind.
func (s *Server) sendJSON(w http.ResponseWriter, value any) error {
	return s.sendJSONAs(w, mediaJSON, value)
}

func (s *Server) sendJSONAs(w http.ResponseWriter, media string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	s.write(w, http.StatusOK, media, data)
	return nil
}

// sendObject sends an object of a kind, in the shape that the request asks for.
func (s *Server) sendObject(w http.ResponseWriter, r *http.Request, code int, k *object.Kind, o object.Object) error {
	as, err := s.accepted(r)
	if err != nil {
		return err
	}
	return s.sendAs(w, as, code, one(k, o, as, include(r)))
}

// one converts an object to the shape.
func one(k *object.Kind, o object.Object, as shape, include metav1.IncludeObjectPolicy) runtime.Object {
	switch as.as {
	case "":
		return o
	case "Table":
		t := table.Of(k, []object.Object{o}, time.Now(), include)
		t.ResourceVersion = o.GetResourceVersion()
		return t
	}
	return partial(o) // also for a request for a list of these, for its items
}

// many converts objects to a list in the shape.
func many(k *object.Kind, objects []object.Object, revision string, as shape, include metav1.IncludeObjectPolicy) (runtime.Object, error) {
	switch as.as {
	case "Table":
		t := table.Of(k, objects, time.Now(), include)
		t.ResourceVersion = revision
		return t, nil
	case "PartialObjectMetadataList":
		list := &metav1.PartialObjectMetadataList{
			TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"},
			ListMeta: metav1.ListMeta{ResourceVersion: revision}, Items: []metav1.PartialObjectMetadata{},
		}
		for _, o := range objects {
			list.Items = append(list.Items, *partial(o))
		}
		return list, nil
	case "PartialObjectMetadata":
		return nil, apierrors.NewBadRequest("a list cannot be shown as a " + as.as)
	}
	list := k.NewList()
	items := make([]runtime.Object, len(objects))
	for i, o := range objects {
		items[i] = o
	}
	if err := meta.SetList(list, items); err != nil {
		return nil, err
	}
	list.GetObjectKind().SetGroupVersionKind(k.GroupVersion().WithKind(k.Kind + "List"))
	list.(metav1.ListInterface).SetResourceVersion(revision)
	return list, nil
}

func partial(o object.Object) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(o)
	p.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}
	return p
}

func include(r *http.Request) metav1.IncludeObjectPolicy {
	return metav1.IncludeObjectPolicy(r.URL.Query().Get("includeObject"))
}

// fail sends an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status.Code >= http.StatusInternalServerError {
		s.log.Error("serving the API", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	as, acceptErr := s.accepted(r)
	if acceptErr != nil {
		as = shape{media: mediaJSON, info: s.codecs.byType[mediaJSON]}
	}
	if err := s.sendAs(w, as, int(status.Code), &status); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// statusOf returns the error as a Status for clients.
func statusOf(err error) metav1.Status {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			status = &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: metav1.StatusReasonInternalError,
				Message: "the disk under the node's object store is full, so nothing was changed: make room and try again: " + err.Error(),
			}}
		case errors.Is(err, fault.Exhausted):
			status = apierrors.NewRequestEntityTooLargeError(err.Error())
		case errors.Is(err, fault.Unavailable):
			status = apierrors.NewServiceUnavailable(err.Error())
		case errors.Is(err, fault.Invalid), errors.Is(err, fault.Unimplemented):
			status = apierrors.NewBadRequest(err.Error())
		}
	}
	out := status.Status()
	out.Kind, out.APIVersion = "Status", "v1"
	return out
}

// notFound returns the error for an object that does not exist.
func notFound(t target) error { return apierrors.NewNotFound(t.kind.GroupResource(), t.name) }

// invalid returns the error for an object with invalid values. Each problem is a
// separate cause, because kubectl shows the causes and not the message.
func invalid(t target, name string, err error) error {
	text := strings.TrimPrefix(err.Error(), object.NameOf(t.kind, t.namespace, name)+": ")
	details := &metav1.StatusDetails{Group: t.kind.Group, Kind: t.kind.Kind, Name: name}
	for problem := range strings.SplitSeq(text, "\n") {
		cause := metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Message: problem}
		if field, message, ok := strings.Cut(problem, ": "); ok {
			cause.Field, cause.Message = field, message
		}
		details.Causes = append(details.Causes, cause)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Details: details,
		Message: fmt.Sprintf("%s %q is invalid: %s", t.kind.Kind, name, strings.ReplaceAll(text, "\n", "; ")),
	}}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// warn adds a warning, which kubectl shows on standard error.
func warn(w http.ResponseWriter, text string) {
	if header, err := utilnet.NewWarningHeader(299, "-", oneLine(errors.New(text))); err == nil {
		w.Header().Add("Warning", header)
	}
}

func newTimeout(text string) *apierrors.StatusError { return apierrors.NewTimeoutError(text, 1) }

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// patcher applies a patch to a document.
type patcher func(original []byte) ([]byte, error)

func (s *Server) patch(w http.ResponseWriter, r *http.Request, t target) error {
	var opts metav1.PatchOptions
	if err := s.options(r, &opts); err != nil {
		return err
	}
	e, err := newEdit(r, t, opts.DryRun, opts.FieldManager, opts.FieldValidation)
	if err != nil {
		return err
	}
	data, media, err := body(r)
	if err != nil {
		return err
	}
	if types.PatchType(media) == types.ApplyYAMLPatchType {
		return s.apply(w, r, e, data, opts.Force != nil && *opts.Force)
	}
	do, err := patcherFor(types.PatchType(media), data, t.kind)
	if err != nil {
		return err
	}
	o, err := s.change(e, func(old object.Object) (object.Object, error) { return e.patched(w, old, do) })
	if err != nil {
		return err
	}
	return s.sendObject(w, r, http.StatusOK, t.kind, o)
}

func patcherFor(media types.PatchType, patch []byte, k *object.Kind) (patcher, error) {
	switch media {
	case types.JSONPatchType:
		decoded, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, apierrors.NewBadRequest("decoding the JSON patch: " + err.Error())
		}
		return decoded.Apply, nil
	case types.MergePatchType:
		return func(original []byte) ([]byte, error) { return jsonpatch.MergePatch(original, patch) }, nil
	case types.StrategicMergePatchType:
		return func(original []byte) ([]byte, error) {
			return strategicpatch.StrategicMergePatch(original, patch, k.New())
		}, nil
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("a patch of type %q is not understood: want %s, %s, %s or %s", media,
			types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType),
	}}
}

// patched returns old with the patch applied.
func (e *edit) patched(w http.ResponseWriter, old object.Object, do patcher) (object.Object, error) {
	original, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	data, err := do(original)
	if err != nil {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
			Message: fmt.Sprintf("applying the patch to %s: %s", object.Name(old), e.quotable(err)),
		}}
	}
	return e.decode(w, data)
}

// apply is server-side apply: the client becomes the owner of the fields that it sends,
// fields that it owned and does not send are removed, and fields of others are a
// conflict unless it forces. If the object does not exist, it is created.
func (s *Server) apply(w http.ResponseWriter, r *http.Request, e *edit, data []byte, force bool) error {
	if r.URL.Query().Get("fieldManager") == "" {
		return apierrors.NewBadRequest("server-side apply needs a fieldManager")
	}
	asJSON, err := e.toJSON(w, data)
	if err != nil {
		return err
	}
	if _, err := e.decode(w, asJSON); err != nil { // for strict errors
		return err
	}
	applied := &unstructured.Unstructured{}
	if err := json.Unmarshal(asJSON, &applied.Object); err != nil {
		return apierrors.NewBadRequest("decoding the applied object: " + err.Error())
	}
	manager, err := s.managers.of(e.target)
	if err != nil {
		return err
	}
	e.applied = true
	merged := func(live object.Object) (object.Object, error) {
		o, err := manager.Apply(live, applied.DeepCopy(), e.manager, force)
		if status := apierrors.APIStatus(nil); err != nil && !errors.As(err, &status) { // it does not fit the schema
			return nil, apierrors.NewBadRequest("applying: " + e.quotable(err))
		}
		if err != nil {
			return nil, err
		}
		return o.(object.Object), nil
	}
	for {
		o, err := s.change(e, func(old object.Object) (object.Object, error) { return merged(old.DeepCopyObject().(object.Object)) })
		code := http.StatusOK
		if apierrors.IsNotFound(err) && e.subresource == "" {
			o, err = s.applyNew(w, e, merged)
			code = http.StatusCreated
		}
		if apierrors.IsAlreadyExists(err) {
			continue // it was created in the meantime
		}
		if err != nil {
			return err
		}
		return s.sendObject(w, r, code, e.kind, o)
	}
}

// applyNew creates the object that was applied.
func (s *Server) applyNew(w http.ResponseWriter, e *edit, merged func(object.Object) (object.Object, error)) (object.Object, error) {
	o, err := merged(e.kind.New())
	if err != nil {
		return nil, err
	}
	if o.GetName() != e.name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) is not that of the request (%s)", o.GetName(), e.name))
	}
	record := o.GetManagedFields()
	if err := s.prepare(w, e, o); err != nil {
		return nil, err
	}
	o.SetManagedFields(record)
	return s.insert(e, o)
}

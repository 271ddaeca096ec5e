package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// edit is how a request wants its change to be made.
type edit struct {
	target
	manager    string // the owner of the fields that it sets
	dryRun     bool
	validation string // metav1.FieldValidation...
	applied    bool   // by server-side apply, which records the owners itself
	kubelet    bool   // by a kubelet, which repeats what was lost
}

// newEdit reads the options that create, update and patch share.
func newEdit(r *http.Request, t target, dryRun []string, manager, validation string) (*edit, error) {
	user, _ := client(r)
	e := &edit{target: t, manager: manager, validation: validation, kubelet: strings.HasPrefix(user, "system:node:")}
	var err error
	if e.dryRun, err = isDryRun(dryRun); err != nil {
		return nil, err
	}
	switch validation {
	case "":
		e.validation = metav1.FieldValidationWarn
	case metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("fieldValidation %q is none of Ignore, Warn, Strict", validation))
	}
	if e.manager == "" { // as in an API server, which uses the program's name
		e.manager, _, _ = strings.Cut(r.UserAgent(), "/")
	}
	return e, nil
}

func isDryRun(values []string) (bool, error) {
	for _, v := range values {
		if v != metav1.DryRunAll {
			return false, apierrors.NewBadRequest(fmt.Sprintf("dryRun %q is not All", v))
		}
	}
	return len(values) > 0, nil
}

// read decodes the object in a request.
func (s *Server) read(w http.ResponseWriter, r *http.Request, e *edit) (object.Object, error) {
	data, media, err := body(r)
	if err != nil {
		return nil, err
	}
	if media == mediaProtobuf {
		return s.readProtobuf(data, e)
	}
	if media != mediaJSON && media != mediaYAML && media != "" {
		return nil, unspoken(media)
	}
	if media == mediaYAML {
		if data, err = e.toJSON(w, data); err != nil {
			return nil, err
		}
	}
	return e.decode(w, data)
}

// toJSON converts YAML, of which JSON is a subset, to JSON. A duplicate key is handled
// according to the request's strictness, as in decode; its last value is used.
func (e *edit) toJSON(w http.ResponseWriter, data []byte) ([]byte, error) {
	asJSON, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, apierrors.NewBadRequest("the request is not YAML: " + e.quotable(err))
	}
	if _, err := yaml.YAMLToJSONStrict(data); err != nil {
		return asJSON, e.complain(w, []error{err})
	}
	return asJSON, nil
}

// quotable returns a library's error about a client's data. For a Secret it returns a
// fixed text: the error may quote values, which must not appear in answers or logs.
func (e *edit) quotable(err error) string {
	if e.kind.Kind == "Secret" {
		return "what is wrong is not told of a Secret, since it would quote from it"
	}
	return oneLine(err)
}

func (s *Server) readProtobuf(data []byte, e *edit) (object.Object, error) {
	gvk := e.kind.GroupVersionKind
	decoded, _, err := s.codecs.byType[mediaProtobuf].Serializer.Decode(data, &gvk, nil)
	if err != nil {
		return nil, apierrors.NewBadRequest("decoding the request: " + err.Error())
	}
	o, ok := decoded.(object.Object)
	if have, err := object.KindOf(o); !ok || err != nil || have != e.kind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the request carries a %T: want a %s", decoded, e.kind.Kind))
	}
	return o, nil
}

// decode decodes JSON with the strictness that the request asks for.
func (e *edit) decode(w http.ResponseWriter, data []byte) (object.Object, error) {
	o, strict, err := object.DecodeJSON(data, e.kind)
	if err != nil {
		return nil, apierrors.NewBadRequest("decoding the request: " + err.Error())
	}
	return o, e.complain(w, strict)
}

// complain handles strict decoding errors as the request asks for. It returns an error
// if the request wants them rejected.
func (e *edit) complain(w http.ResponseWriter, strict []error) error {
	switch {
	case len(strict) == 0:
	case e.validation == metav1.FieldValidationStrict:
		return apierrors.NewBadRequest("strict decoding error: " + oneLine(errors.Join(strict...)))
	case e.validation == metav1.FieldValidationWarn:
		for _, problem := range strict {
			warn(w, problem.Error())
		}
	}
	return nil
}

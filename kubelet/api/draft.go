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

// edit is what a request says about how its change is to be made.
type edit struct {
	target
	manager    string // who owns the fields that it sets
	dryRun     bool
	validation string // metav1.FieldValidation...
	applied    bool   // by server-side apply, which records who owns what itself
}

// newEdit reads what create, update and patch have in common.
func newEdit(r *http.Request, t target, dryRun []string, manager, validation string) (*edit, error) {
	e := &edit{target: t, manager: manager, validation: validation}
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
	if e.manager == "" { // as an API server, which takes the program's name
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

// read decodes the object that a request carries.
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
	asJSON, err := yaml.YAMLToJSONStrict(data) // JSON is YAML
	if media != mediaYAML {
		asJSON, err = data, nil
	}
	if err != nil {
		return nil, apierrors.NewBadRequest("the request is not YAML: " + err.Error())
	}
	return e.decode(w, asJSON)
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

// decode decodes JSON as strictly as the request asks for.
func (e *edit) decode(w http.ResponseWriter, data []byte) (object.Object, error) {
	o, strict, err := object.DecodeJSON(data, e.kind)
	if err != nil {
		return nil, apierrors.NewBadRequest("decoding the request: " + err.Error())
	}
	if len(strict) == 0 {
		return o, nil
	}
	switch e.validation {
	case metav1.FieldValidationStrict:
		return nil, apierrors.NewBadRequest("strict decoding error: " + oneLine(errors.Join(strict...)))
	case metav1.FieldValidationWarn:
		for _, problem := range strict {
			warn(w, problem.Error())
		}
	}
	return o, nil
}

package object

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/spelling"
)

// DecodeJSON decodes one object. Unknown fields and duplicate keys are not an err: they
// are returned as strict, one error each, with the name that was probably meant.
func DecodeJSON(doc []byte, k *Kind) (o Object, strict []error, err error) {
	codec := jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, Scheme(), Scheme(), jsonserializer.SerializerOptions{Strict: true})
	gvk := k.GroupVersionKind
	decoded, _, err := codec.Decode(doc, &gvk, nil)
	if found, ok := runtime.AsStrictDecodingError(err); ok && decoded != nil {
		strict, err = explain(found, decoded), nil
	}
	if err != nil {
		return nil, nil, fault.Invalid.Wrap(err)
	}
	o, ok := decoded.(Object)
	if have, kindErr := KindOf(o); !ok || kindErr != nil || have != k {
		return nil, nil, fault.Invalid.Errorf("the document is a %s: want a %s", decoded.GetObjectKind().GroupVersionKind().Kind, k.Kind)
	}
	return o, strict, nil
}

// Known returns the kind that a document names, if manifest files may contain it.
// Otherwise the error is fault.Invalid and says what the user can do.
func Known(head metav1.TypeMeta) (*Kind, error) {
	switch {
	case head.Kind == "":
		return nil, fault.Invalid.Errorf("the document has no kind: want apiVersion, kind and metadata")
	case head.APIVersion == "":
		return nil, fault.Invalid.Errorf("%s has no apiVersion", head.Kind)
	}
	gvk := schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
	var names []string
	for _, k := range table() {
		switch {
		case !k.InFiles:
		case k.GroupVersionKind == gvk:
			return k, nil
		case k.GroupKind() == gvk.GroupKind():
			return nil, fault.Invalid.Errorf("%s has no version %q here", head.Kind, head.APIVersion)
		default:
			names = append(names, k.Kind)
		}
	}
	if r := RefusedFor(gvk.GroupKind()); r != nil {
		return nil, fault.Invalid.Errorf("%s %s is not supported: %s", head.APIVersion, head.Kind, r.Why)
	}
	slices.Sort(names)
	return nil, fault.Invalid.Errorf("%s %s is not a kind that a node keeps%s: it keeps %s", head.APIVersion, head.Kind,
		spelling.Meant(head.Kind, names), strings.Join(names, ", "))
}

// Complete turns an object of a manifest into one that can be stored: it drops what
// only a node sets, sets defaults, and checks fields and values. Notices list the
// fields that have no effect. The error is fault.Invalid, fault.Unimplemented or, for
// an object that is too large, fault.Exhausted, and names every problem.
func Complete(o Object) ([]Notice, error) {
	k, err := KindOf(o)
	if err != nil {
		return nil, err
	}
	if o.GetNamespace() == "" && k.Namespaced {
		o.SetNamespace(metav1.NamespaceDefault)
	}
	notices, err := Classify(o)
	if err != nil {
		return nil, err
	}
	clean(o)
	if err := Prepare(o); err != nil {
		return nil, err
	}
	if _, err := Encode(o); err != nil {
		return nil, err
	}
	return notices, nil
}

// Prepare sets defaults and validates.
func Prepare(o Object) error {
	Default(o)
	if err := validate(o); err != nil {
		return fault.Invalid.Errorf("%s: %w", Name(o), err)
	}
	return nil
}

// Classify classifies the fields that a Pod sets into those that work, those that have
// no effect here, which are returned as notices, and those that are rejected, which are
// returned as an error of kind fault.Unimplemented. It needs the Pod as the user wrote
// it, before defaulting. Objects of other kinds are data: all their fields are kept,
// and checked by whatever uses them.
func Classify(o Object) ([]Notice, error) {
	notices, err := classify(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(o), err)
	}
	return notices, nil
}

package api

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nodekit-project/nodekit/kubelet/api/openapi"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// managers maintain managed fields, for server-side apply. An object has them only from
// its first server-side apply: before that nobody asks for them, and they would cost
// each write a millisecond. Earlier fields belong to "before-first-apply", as in an API
// server for objects that are older than managed fields.
type managers struct {
	types func() (managedfields.TypeConverter, error)

	mu   sync.Mutex
	made map[string]*managedfields.FieldManager
}

func newManagers() *managers {
	return &managers{types: sync.OnceValues(typeConverter), made: map[string]*managedfields.FieldManager{}}
}

// typeConverter converts all kinds by their OpenAPI schemas.
func typeConverter() (managedfields.TypeConverter, error) {
	models := map[string]*spec.Schema{}
	for name, s := range openapi.Schemas(object.Kinds()) {
		models[name] = inPlace(s)
	}
	return managedfields.NewTypeConverter(models, false)
}

// inPlace rewrites the schema's references to OpenAPI v2, which the converter needs.
func inPlace(s *spec.Schema) *spec.Schema {
	out := *s
	if ref := s.Ref.String(); ref != "" {
		return spec.RefSchema("#/definitions/" + strings.TrimPrefix(ref, "#/components/schemas/"))
	}
	if len(s.AllOf) == 1 {
		out.AllOf = nil
		out.Ref = inPlace(&s.AllOf[0]).Ref
	}
	if s.Items != nil {
		out.Items = &spec.SchemaOrArray{Schema: inPlace(s.Items.Schema)}
	}
	if s.AdditionalProperties != nil {
		out.AdditionalProperties = &spec.SchemaOrBool{Allows: true, Schema: inPlace(s.AdditionalProperties.Schema)}
	}
	if s.Properties != nil {
		out.Properties = map[string]spec.Schema{}
		for name, p := range s.Properties {
			out.Properties[name] = *inPlace(&p)
		}
	}
	return &out
}

// of returns the field manager of a kind or of a subresource of it.
func (m *managers) of(t target) (*managedfields.FieldManager, error) {
	types, err := m.types()
	if err != nil {
		return nil, fmt.Errorf("reading the schemas of all kinds: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := t.kind.Key() + "/" + t.subresource
	if m.made[key] == nil {
		s := object.Scheme()
		made, err := managedfields.NewDefaultFieldManager(types, s, defaulter{}, s, t.kind.GroupVersionKind, t.kind.GroupVersion(), t.subresource, reset(t))
		if err != nil {
			return nil, err
		}
		m.made[key] = made
	}
	return m.made[key], nil
}

// reset returns the fields that a request to an object, or to its status, does not
// change: a client that sends them does not become their owner.
func reset(t target) map[fieldpath.APIVersion]fieldpath.Filter {
	var fields *fieldpath.Set
	switch {
	case t.kind.Status && t.subresource == "":
		fields = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	case t.subresource == "status":
		fields = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "ownerReferences"))
	default:
		return nil
	}
	version := fieldpath.APIVersion(t.kind.GroupVersion().String())
	return map[fieldpath.APIVersion]fieldpath.Filter{version: fieldpath.NewExcludeSetFilter(fields)}
}

// note records a manager's change, if the object has managed fields.
func (m *managers) note(e *edit, o, old object.Object) object.Object {
	if len(old.GetManagedFields()) == 0 || e.applied {
		return o
	}
	manager, err := m.of(e.target)
	if err != nil {
		return o
	}
	return manager.UpdateNoErrors(old.DeepCopyObject(), o, e.manager).(object.Object)
}

// defaulter sets the defaults of applied objects for the field manager.
type defaulter struct{}

func (defaulter) Default(o runtime.Object) {
	if o, ok := o.(object.Object); ok {
		object.Default(o)
	}
}

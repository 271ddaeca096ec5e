package openapi

import (
	"encoding/json"
	"reflect"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// What types of the Kubernetes API say about themselves.
type (
	documented interface{ SwaggerDoc() map[string]string }
	modelled   interface{ OpenAPIModelName() string }
	typed      interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
)

// builder builds the schemas of all types that the kinds refer to.
type builder struct{ schemas map[string]*spec.Schema }

// object adds a kind and returns the name of its schema.
func (b *builder) object(k *object.Kind) string {
	name := b.add(reflect.TypeOf(k.New()).Elem())
	b.schemas[name].Extensions = spec.Extensions{"x-kubernetes-group-version-kind": []any{gvk(k.GroupVersionKind)}}
	return name
}

func refTo(name string) string { return "#/components/schemas/" + name }

// add adds the schema of a struct type, once, and returns its name.
func (b *builder) add(t reflect.Type) string {
	name := nameOf(t)
	if b.schemas[name] != nil {
		return name
	}
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: map[string]spec.Schema{}}}
	b.schemas[name] = s // before its fields, which may have the same type
	docs := docsOf(t)
	s.Description = docs[""]
	b.fields(t, docs, s)
	return name
}

func (b *builder) fields(t reflect.Type, docs map[string]string, s *spec.Schema) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous:
			b.fields(f.Type, docsOf(f.Type), s)
		default:
			property := b.of(f.Type)
			mergeTags(f, property)
			s.Properties[name] = *described(property, docs[name])
			if t.Name() == "ContainerPort" && name == "protocol" {
				p := s.Properties[name]
				p.Default = "TCP" // a key of the list, needed before defaults are set
				s.Properties[name] = p
			}
			if !strings.Contains(options, "omitempty") {
				s.Required = append(s.Required, name)
			}
		}
	}
}

// described adds a description to the property. A reference cannot have one beside it,
// so it is wrapped.
func described(s *spec.Schema, text string) *spec.Schema {
	if s.Ref.String() != "" {
		s = &spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{*s}}, VendorExtensible: s.VendorExtensible}
	}
	s.Description = text
	return s
}

// mergeTags adds how strategic merge patch and server-side apply treat the field: a
// list is merged by a key of its items, as a set, or replaced.
func mergeTags(f reflect.StructField, s *spec.Schema) {
	strategy, key := f.Tag.Get("patchStrategy"), f.Tag.Get("patchMergeKey")
	list := s.Items != nil
	if strategy == "" {
		if list {
			s.Extensions = spec.Extensions{"x-kubernetes-list-type": "atomic"}
		}
		return
	}
	s.Extensions = spec.Extensions{"x-kubernetes-patch-strategy": strategy}
	switch {
	case key != "" && list && strings.Contains(strategy, "merge"):
		s.Extensions["x-kubernetes-patch-merge-key"] = key
		s.Extensions["x-kubernetes-list-type"], s.Extensions["x-kubernetes-list-map-keys"] = "map", keys(f, key)
	case list:
		s.Extensions["x-kubernetes-list-type"] = "set"
	}
}

// keys returns the fields that identify a list's items. The tags have one; a
// container's ports have two (k8s.io/api/core/v1, "listMapKey").
func keys(f reflect.StructField, key string) []any {
	if f.Type.Elem().Name() == "ContainerPort" {
		return []any{key, "protocol"}
	}
	return []any{key}
}

// of returns the schema of a field's type.
func (b *builder) of(t reflect.Type) *spec.Schema {
	if s := ownSchema(t); s != nil {
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.of(t.Elem())
	case reflect.Struct:
		return spec.RefSchema(refTo(b.add(t)))
	case reflect.Map:
		return spec.MapProperty(b.of(t.Elem()))
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return spec.StrFmtProperty("byte")
		}
		return spec.ArrayProperty(b.of(t.Elem()))
	case reflect.Bool:
		return spec.BoolProperty()
	case reflect.Int64, reflect.Int, reflect.Uint64:
		return spec.Int64Property()
	case reflect.Int32, reflect.Uint32, reflect.Int16, reflect.Uint16, reflect.Int8, reflect.Uint8:
		return spec.Int32Property()
	case reflect.Float32, reflect.Float64:
		return spec.Float64Property()
	case reflect.String:
		return spec.StringProperty()
	}
	return &spec.Schema{} // an interface: anything
}

// ownSchema returns the schema that a type defines itself, because its JSON differs
// from its Go fields.
func ownSchema(t reflect.Type) *spec.Schema {
	if t.Kind() == reflect.Pointer {
		return nil
	}
	value := reflect.New(t).Interface()
	if own, ok := value.(typed); ok {
		types, format := own.OpenAPISchemaType(), own.OpenAPISchemaFormat()
		if format == "int-or-string" {
			types = []string{"string"}
		}
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: types, Format: format}}
	}
	if _, opaque := value.(json.Unmarshaler); opaque && t.Kind() == reflect.Struct {
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}} // FieldsV1, RawExtension
	}
	return nil
}

func docsOf(t reflect.Type) map[string]string {
	if d, ok := reflect.New(t).Interface().(documented); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// nameOf returns the model's name, as in "io.k8s.api.core.v1.Pod".
func nameOf(t reflect.Type) string {
	if m, ok := reflect.New(t).Interface().(modelled); ok {
		return m.OpenAPIModelName()
	}
	return strings.NewReplacer("/", ".", "-", "_").Replace(t.PkgPath()) + "." + t.Name()
}

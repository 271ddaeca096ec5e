// Package yamlfile decodes configuration files whose errors speak of the file's lines
// and keys, and not of Go's types.
package yamlfile

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/spelling"
)

// Decode decodes a YAML or JSON document, which must be a mapping, into the struct that
// into points to. A key that the struct does not have, one that occurs twice and a value
// of another type are fault.Invalid; the error says what is expected, but not of which
// file. An empty document changes nothing. Decode is safe for concurrent use.
func Decode(document []byte, into any) error {
	err := yaml.UnmarshalStrict(document, into)
	if err == nil {
		return nil
	}
	inner := err
	for next := errors.Unwrap(inner); next != nil; next = errors.Unwrap(inner) {
		inner = next
	}
	keys := keysOf(reflect.TypeOf(into))
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return fault.Invalid.Errorf("it is %s: want a mapping with keys of %q", nameOf(wrong.Value), keys)
		}
		return fault.Invalid.Errorf("key %q is %s: want %s", wrong.Field, nameOf(wrong.Value), wanted(wrong.Type))
	}
	// encoding/json has no type for this error.
	if key, ok := strings.CutPrefix(inner.Error(), "json: unknown field "); ok {
		return fault.Invalid.Errorf("there is no key %s%s: the keys are %q", key, spelling.Meant(strings.Trim(key, `"`), keys), keys)
	}
	_, reason, ok := strings.Cut(inner.Error(), "yaml: unmarshal errors:\n  ") // a key occurs twice
	if !ok {
		reason = strings.TrimPrefix(inner.Error(), "yaml: ")
	}
	return fault.Invalid.Errorf("it is not valid YAML: %s", reason)
}

// nameOf returns the YAML name of what encoding/json calls a value.
func nameOf(value string) string {
	switch kind, number, _ := strings.Cut(value, " "); {
	case number != "":
		return number
	case kind == "array":
		return "a list"
	case kind == "object":
		return "a mapping"
	case kind == "bool":
		return "true or false"
	default:
		return "a " + kind
	}
}

// wanted describes the values of a type.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// keysOf returns the names of the keys, in order, at any depth: encoding/json does not
// say where an unknown one is.
func keysOf(t reflect.Type) (names []string) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return keysOf(t.Elem())
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" || !f.IsExported() {
				continue
			}
			if name == "" {
				name = f.Name
			}
			names = append(append(names, name), keysOf(f.Type)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

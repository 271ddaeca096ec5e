package object

import (
	"errors"
	"reflect"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nodekit-project/nodekit/internal/spelling"
)

// explain makes a decoder's complaints readable: one error per unknown field,
// with the name that was probably meant.
func explain(strict interface{ Errors() []error }, decoded runtime.Object) []error {
	var errs []error
	unknown := regexp.MustCompile(`^unknown field "(.*)"$`)
	for _, e := range strict.Errors() {
		if m := unknown.FindStringSubmatch(e.Error()); m != nil {
			e = errors.New(e.Error() + suggestion(reflect.TypeOf(decoded), m[1]))
		}
		errs = append(errs, e)
	}
	return errs
}

// suggestion looks for a field with a name similar to the last of the path, in the same
// place.
func suggestion(t reflect.Type, path string) string {
	elements := strings.Split(path, ".")
	for _, e := range elements[:len(elements)-1] {
		name, _, _ := strings.Cut(e, "[")
		field, ok := fieldNamed(t, name)
		if !ok {
			return ""
		}
		t = field
	}
	last := elements[len(elements)-1]
	return spelling.Meant(last, fieldNames(t))
}

// under returns the struct type behind pointers and lists.
func under(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func fieldNamed(t reflect.Type, name string) (reflect.Type, bool) {
	t = under(t)
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	for f := range structFields(t) {
		if jsonName(f) == name {
			return f.Type, true
		}
	}
	return nil, false
}

func fieldNames(t reflect.Type) []string {
	t = under(t)
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for f := range structFields(t) {
		names = append(names, jsonName(f))
	}
	return names
}

// structFields yields the fields of a struct with those of inlined ones.
func structFields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(t) {
			if jsonName(f) != "" && !yield(f) {
				return
			}
		}
	}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

package object_test

import (
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// TestTableNamesRealFields holds the table of fields to the Pod type: a typing
// mistake would refuse a field that works.
func TestTableNamesRealFields(t *testing.T) {
	for _, path := range object.TablePaths() {
		typ := reflect.TypeFor[v1.Pod]()
		for element := range strings.SplitSeq(strings.ReplaceAll(path, "[]", ""), ".") {
			next, ok := fieldByJSON(typ, element)
			if !ok {
				t.Errorf("the table has %q, and %s has no field %q", path, typ, element)
				break
			}
			typ = next
		}
	}
}

func fieldByJSON(t reflect.Type, name string) (reflect.Type, bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	for _, f := range reflect.VisibleFields(t) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
			return f.Type, true
		}
	}
	return nil, false
}

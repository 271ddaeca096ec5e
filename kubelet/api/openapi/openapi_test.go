package openapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/api/openapi"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// TestDocument holds the document to what its readers look for in it.
func TestDocument(t *testing.T) {
	pod, err := object.KindOf(&v1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	d := openapi.Document("/api/v1", v1.SchemeGroupVersion, []*object.Kind{pod}, nil)
	s := d.Components.Schemas
	spec := s["io.k8s.api.core.v1.PodSpec"].Properties
	at := "/api/v1/namespaces/{namespace}/pods/{name}"
	for name, c := range map[string]struct{ got, want any }{
		"kind":           {s["io.k8s.api.core.v1.Pod"].Extensions["x-kubernetes-group-version-kind"].([]any)[0].(map[string]any)["kind"], "Pod"},
		"documentation":  {strings.HasPrefix(spec["containers"].Description, "List of containers"), true},
		"merge key":      {spec["containers"].Extensions["x-kubernetes-patch-merge-key"], "name"},
		"reference":      {spec["containers"].Items.Schema.Ref.String(), "#/components/schemas/io.k8s.api.core.v1.Container"},
		"required":       {strings.Join(s["io.k8s.api.core.v1.PodSpec"].Required, " "), "containers"},
		"time":           {s["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].Properties["creationTimestamp"].Format, "date-time"},
		"bytes":          {s["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].Properties["labels"].AdditionalProperties.Schema.Type[0], "string"},
		"strategic":      {d.Paths.Paths[at].Patch.RequestBody.Content["application/strategic-merge-patch+json"] != nil, true},
		"validation":     {d.Paths.Paths[at].Patch.Parameters[2].Name, "fieldValidation"},
		"what it is for": {d.Paths.Paths[at].Patch.Extensions["x-kubernetes-group-version-kind"].(map[string]any)["kind"], "Pod"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", name, c.got, c.want)
		}
	}
	if _, err := json.Marshal(d); err != nil {
		t.Error(err)
	}
}

func BenchmarkDocument(b *testing.B) {
	for b.Loop() {
		if _, err := json.Marshal(openapi.Document("/api/v1", v1.SchemeGroupVersion, object.Kinds(), nil)); err != nil {
			b.Fatal(err)
		}
	}
}

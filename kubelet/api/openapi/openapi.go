// Package openapi describes kinds of objects in OpenAPI v3, one document per group and
// version, as a Kubernetes API does at /openapi/v3. kubectl explain reads the schemas;
// kubectl apply and --validate read the operations.
//
// The schemas are generated from the Go types: their fields, their documentation in
// k8s.io/api, and the struct tags that say how lists are merged. Generating a document
// takes about ten milliseconds; the server caches it. The package is pure, and safe for
// concurrent use.
package openapi

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// Document returns the description of the kinds, which must all be of one group and
// version. prefix is the path of their resources.
//
// Refused kinds have operations, too, without schemas: a client that checks its
// requests against them sends the request, and gets the reason.
func Document(prefix string, gv schema.GroupVersion, kinds []*object.Kind, refused []object.Refused) *spec3.OpenAPI {
	b := &builder{schemas: map[string]*spec.Schema{}}
	paths := map[string]*spec3.Path{}
	for _, k := range kinds {
		name := b.object(k)
		all := prefix + "/" + k.Resource
		if k.Namespaced {
			paths[all] = &spec3.Path{PathProps: spec3.PathProps{Get: operation(k.GroupVersionKind, "list", "")}}
			all = prefix + "/namespaces/{namespace}/" + k.Resource
		}
		paths[all] = &spec3.Path{PathProps: spec3.PathProps{
			Get: operation(k.GroupVersionKind, "list", ""), Post: operation(k.GroupVersionKind, "post", name), Delete: operation(k.GroupVersionKind, "deletecollection", ""),
		}}
		paths[all+"/{name}"] = &spec3.Path{PathProps: spec3.PathProps{
			Get: operation(k.GroupVersionKind, "get", ""), Put: operation(k.GroupVersionKind, "put", name),
			Patch: patch(k.GroupVersionKind), Delete: operation(k.GroupVersionKind, "delete", ""),
		}}
	}
	for _, r := range refused {
		all := prefix + "/" + r.Resource
		if r.Namespaced() {
			all = prefix + "/namespaces/{namespace}/" + r.Resource
		}
		paths[all] = &spec3.Path{PathProps: spec3.PathProps{Post: operation(r.GroupVersionKind, "post", "")}}
		paths[all+"/{name}"] = &spec3.Path{PathProps: spec3.PathProps{Patch: patch(r.GroupVersionKind)}}
	}
	return &spec3.OpenAPI{
		Version: "3.0.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: "nodekit, " + gv.String(), Version: gv.Version}},
		Paths: &spec3.Paths{Paths: paths}, Components: &spec3.Components{Schemas: b.schemas},
	}
}

// Schemas returns the schemas of the kinds and of all types that they refer to, by
// model name.
func Schemas(kinds []*object.Kind) map[string]*spec.Schema {
	b := &builder{schemas: map[string]*spec.Schema{}}
	for _, k := range kinds {
		b.object(k)
	}
	return b.schemas
}

func gvk(k schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind}
}

// operation describes one verb; body is the schema of the request body, "" for none.
func operation(k schema.GroupVersionKind, action, body string) *spec3.Operation {
	o := &spec3.Operation{OperationProps: spec3.OperationProps{
		OperationId: action + k.Kind, Parameters: parameters(action),
		Responses: &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{
			200: {ResponseProps: spec3.ResponseProps{Description: "OK"}},
		}}},
	}}
	o.Extensions = spec.Extensions{"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(k)}
	if body != "" {
		o.RequestBody = content(map[string]*spec.Schema{"application/json": spec.RefSchema(refTo(body))})
	}
	return o
}

func patch(k schema.GroupVersionKind) *spec3.Operation {
	o := operation(k, "patch", "")
	anything := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	o.RequestBody = content(map[string]*spec.Schema{
		"application/json-patch+json": anything, "application/merge-patch+json": anything,
		"application/strategic-merge-patch+json": anything, "application/apply-patch+yaml": anything,
	})
	return o
}

func content(types map[string]*spec.Schema) *spec3.RequestBody {
	body := &spec3.RequestBody{RequestBodyProps: spec3.RequestBodyProps{Content: map[string]*spec3.MediaType{}}}
	for mime, s := range types {
		body.Content[mime] = &spec3.MediaType{MediaTypeProps: spec3.MediaTypeProps{Schema: s}}
	}
	return body
}

// parameters returns the parameters that clients check to find out what a server
// supports.
func parameters(action string) []*spec3.Parameter {
	var names []string
	switch action {
	case "post", "put":
		names = []string{"dryRun", "fieldManager", "fieldValidation"}
	case "patch":
		names = []string{"dryRun", "fieldManager", "fieldValidation", "force"}
	case "delete", "deletecollection":
		names = []string{"dryRun", "gracePeriodSeconds", "propagationPolicy"}
	case "list":
		names = []string{"allowWatchBookmarks", "fieldSelector", "labelSelector", "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"}
	}
	list := make([]*spec3.Parameter, 0, len(names))
	for _, name := range names {
		list = append(list, &spec3.Parameter{ParameterProps: spec3.ParameterProps{Name: name, In: "query", Schema: spec.StringProperty()}})
	}
	return list
}

// Package manifest reads the node's objects from files: it decodes YAML and
// JSON strictly, sorts every field of a Pod into "works", "harmless here, said
// once" or "refused by name", sets Kubernetes' own defaults, validates, and
// keeps an object store in step with a directory.
//
// It checks what a kubelet can check. It is no admission control and has no
// cluster to ask. Decode is pure; a Directory is used by one goroutine.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// MaxFile is the largest manifest file that is read, in bytes.
const MaxFile = 10 << 20

// Object is any Kubernetes object.
type Object = interface {
	metav1.Object
	runtime.Object
}

// Notice says that a field was accepted and has no effect here.
type Notice struct {
	Object string // "Pod default/web"
	Field  string // "spec.tolerations"
	Why    string
}

// String returns the notice as one line.
func (n Notice) String() string {
	return fmt.Sprintf("%s: %s has no effect: %s", n.Object, n.Field, n.Why)
}

// Decode reads all objects of a file: YAML documents or JSON, v1 List included.
// They are complete: defaulted and validated. The errors of all documents are
// joined; each names the document (from 1) when there are several. Objects are
// returned only when there is no error.
func Decode(data []byte) ([]Object, []Notice, error) {
	documents, err := split(data)
	if err != nil {
		return nil, nil, err
	}
	var objects []Object
	var notices []Notice
	var errs []error
	for i, doc := range documents {
		more, said, err := decodeDocument(doc)
		if err != nil && len(documents) > 1 {
			err = fmt.Errorf("document %d: %w", i+1, err)
		}
		errs = append(errs, err)
		objects, notices = append(objects, more...), append(notices, said...)
	}
	if err := errors.Join(append(errs, duplicates(objects))...); err != nil {
		return nil, nil, err
	}
	return objects, notices, nil
}

// split returns the documents of a YAML stream that are not empty, as JSON.
func split(data []byte) ([][]byte, error) {
	var documents [][]byte
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fault.Invalid.Errorf("splitting the documents: %w", err)
		}
		asJSON, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return nil, fault.Invalid.Errorf("document %d is not YAML or JSON: %s", len(documents)+1, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if text := bytes.TrimSpace(asJSON); len(text) > 0 && !bytes.Equal(text, []byte("null")) {
			documents = append(documents, text)
		}
	}
}

// decodeDocument decodes one JSON document, or the items of a List.
func decodeDocument(doc []byte) ([]Object, []Notice, error) {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(doc, &head); err != nil {
		return nil, nil, fault.Invalid.Errorf("not a Kubernetes object: want a mapping with apiVersion, kind and metadata")
	}
	if head.Kind == "List" && head.APIVersion == "v1" {
		var objects []Object
		var notices []Notice
		var errs []error
		for i, item := range head.Items {
			more, said, err := decodeDocument(item)
			if err != nil {
				err = fmt.Errorf("item %d: %w", i+1, err)
			}
			errs = append(errs, err)
			objects, notices = append(objects, more...), append(notices, said...)
		}
		return objects, notices, errors.Join(errs...)
	}
	o, notices, err := decodeObject(doc, head.TypeMeta)
	if err != nil {
		return nil, nil, err
	}
	return []Object{o}, notices, nil
}

func decodeObject(doc []byte, head metav1.TypeMeta) (Object, []Notice, error) {
	gvk, err := known(head)
	if err != nil {
		return nil, nil, err
	}
	strict := jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		jsonserializer.SerializerOptions{Strict: true})
	decoded, _, err := strict.Decode(doc, &gvk, nil)
	if err != nil {
		return nil, nil, fault.Invalid.Errorf("%s %s: %w", head.Kind, nameIn(doc), explain(err, decoded))
	}
	o := decoded.(Object) // every kind that known lets through is one
	if o.GetNamespace() == "" && !clusterScoped(gvk.Kind) {
		o.SetNamespace(metav1.NamespaceDefault)
	}
	label := strings.TrimSpace(gvk.Kind + " " + strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"))
	notices, err := classify(label, gvk.Kind, doc)
	if err != nil {
		return nil, nil, err
	}
	clean(o)
	setDefaults(o)
	if err := validate(o); err != nil {
		return nil, nil, fault.Invalid.Errorf("%s: %w", label, err)
	}
	if p, ok := o.(*v1.Pod); ok {
		notices = append(notices, unenforced(label, p)...)
	}
	return o, notices, nil
}

// kinds are the kinds that a node keeps, with true for those in no namespace.
func kinds() map[schema.GroupKind]bool {
	return map[schema.GroupKind]bool{
		{Kind: "Pod"}: false, {Kind: "ConfigMap"}: false, {Kind: "Secret"}: false, {Kind: "ServiceAccount"}: false,
		{Kind: "PersistentVolumeClaim"}: false, {Kind: "PersistentVolume"}: true,
		{Group: "storage.k8s.io", Kind: "StorageClass"}: true, {Group: "storage.k8s.io", Kind: "CSIDriver"}: true,
		{Group: "node.k8s.io", Kind: "RuntimeClass"}: true, {Group: "scheduling.k8s.io", Kind: "PriorityClass"}: true,
	}
}

func clusterScoped(kind string) bool {
	for k, cluster := range kinds() {
		if k.Kind == kind {
			return cluster
		}
	}
	return false
}

// known checks that a node keeps objects of the kind and version.
func known(head metav1.TypeMeta) (schema.GroupVersionKind, error) {
	switch {
	case head.Kind == "":
		return schema.GroupVersionKind{}, fault.Invalid.Errorf("the document has no kind: want apiVersion, kind and metadata")
	case head.APIVersion == "":
		return schema.GroupVersionKind{}, fault.Invalid.Errorf("%s has no apiVersion", head.Kind)
	}
	gvk := schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
	if _, ok := kinds()[gvk.GroupKind()]; ok {
		if !scheme.Scheme.Recognizes(gvk) {
			return gvk, fault.Invalid.Errorf("%s has no version %q here", head.Kind, head.APIVersion)
		}
		return gvk, nil
	}
	if slices.Contains([]string{"apps", "batch"}, gvk.Group) || gvk.Kind == "ReplicationController" {
		return gvk, fault.Invalid.Errorf("%s %s is not supported: a node runs Pods and has no controllers; write its Pod template as a Pod", head.APIVersion, head.Kind)
	}
	var names []string
	for k := range kinds() {
		names = append(names, k.Kind)
	}
	slices.Sort(names)
	return gvk, fault.Invalid.Errorf("%s %s is not a kind that a node keeps%s: it keeps %s", head.APIVersion, head.Kind,
		meant(head.Kind, names), strings.Join(names, ", "))
}

// nameIn returns metadata.name of a document that may be wrong elsewhere.
func nameIn(doc []byte) string {
	var m struct {
		Metadata struct{ Name string }
	}
	if err := json.Unmarshal(doc, &m); err != nil || m.Metadata.Name == "" {
		return "without a name"
	}
	return fmt.Sprintf("%q", m.Metadata.Name)
}

func duplicates(objects []Object) error {
	seen := map[string]bool{}
	for _, o := range objects {
		key := keyOf(o)
		if seen[key] {
			return fault.Invalid.Errorf("%s is there twice", key)
		}
		seen[key] = true
	}
	return nil
}

// keyOf names an object: "Pod default/web".
func keyOf(o Object) string {
	gvks, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		return o.GetName()
	}
	return gvks[0].Kind + " " + strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
}

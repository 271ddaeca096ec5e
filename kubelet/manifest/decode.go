// Package manifest reads the node's objects from files: it splits and decodes YAML and
// JSON strictly, completes the objects (kubelet/object), and keeps an object store in
// sync with a directory.
//
// Decode is pure; a Directory is used by one goroutine.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// MaxFile is the maximum size of a manifest file, in bytes.
const MaxFile = 10 << 20

// Object is any Kubernetes object.
type Object = object.Object

// Notice says that a field was accepted and has no effect here.
type Notice = object.Notice

// Decode reads all objects of a file: YAML documents or JSON, including v1 List. The
// objects are complete: defaulted and validated. The errors of all documents are
// joined; if there are several documents, each error names its document, counted from
// 1. Objects are returned only if there is no error.
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

// quoted matches how the YAML parser quotes what it could not read. That may be part of
// a Secret, and errors are logged.
var quoted = regexp.MustCompile("(^|\\s)['`][^'`]*\\w[^'`]*['`]")

func withoutValues(err error) string {
	return quoted.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "$1(a value)")
}

// split returns the non-empty documents of a YAML stream, as JSON.
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
			return nil, fault.Invalid.Errorf("document %d is not YAML or JSON: %s", len(documents)+1, withoutValues(err))
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
	kind, err := object.Known(head)
	if err != nil {
		return nil, nil, err
	}
	o, strict, err := object.DecodeJSON(doc, kind)
	if err := errors.Join(append(strict, err)...); err != nil {
		return nil, nil, fault.Invalid.Errorf("%s %s: %w", head.Kind, nameIn(doc), err)
	}
	notices, err := object.Complete(o)
	if err != nil {
		return nil, nil, err
	}
	return o, notices, nil
}

// nameIn returns metadata.name of a document that may be invalid elsewhere.
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
		key := object.Name(o)
		if seen[key] {
			return fault.Invalid.Errorf("%s is there twice", key)
		}
		seen[key] = true
	}
	return nil
}

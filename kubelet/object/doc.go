// Package object describes the kinds of objects that a node keeps: their names on the
// wire, the defaults that the Kubernetes API sets in them, which values and changes of
// them are rejected, and which fields of a Pod work here.
//
// It checks what a node can check. It is not admission control and has no cluster to
// consult. Everything in it is a pure function, safe for concurrent use, and does no
// I/O.
package object

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is any Kubernetes object. Its Go type determines its kind.
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

// Name returns an object's name for people: "Pod default/web". For a kind that no node
// keeps, it omits the kind.
func Name(o Object) string {
	if k, err := KindOf(o); err == nil {
		return NameOf(k, o.GetNamespace(), o.GetName())
	}
	return strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
}

// Permanent reports whether a namespace always exists, as in every cluster: it is
// created with its first object, and cannot be deleted.
func Permanent(namespace string) bool {
	return namespace == metav1.NamespaceDefault || namespace == metav1.NamespaceSystem
}

// NameOf is Name for an object that is not available.
func NameOf(k *Kind, namespace, name string) string {
	return k.Kind + " " + strings.TrimPrefix(namespace+"/"+name, "/")
}

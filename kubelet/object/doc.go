// Package object knows the kinds of objects that a node keeps: how they are
// called on the wire, what the Kubernetes API sets in them by default, which
// values and changes of them are refused, and which fields of a Pod work here.
//
// It checks what a node can check. It is no admission control and has no
// cluster to ask. Everything in it is a pure function and safe for concurrent
// use; nothing does I/O.
package object

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is any Kubernetes object. Its kind follows from its Go type.
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

// Name names an object for people: "Pod default/web". An object of a kind that
// no node keeps is named without its kind.
func Name(o Object) string {
	if k, err := KindOf(o); err == nil {
		return NameOf(k, o.GetNamespace(), o.GetName())
	}
	return strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
}

// Permanent reports whether a namespace is one that always is, as in every
// cluster: it is made when the first object needs it, and cannot be deleted.
func Permanent(namespace string) bool {
	return namespace == metav1.NamespaceDefault || namespace == metav1.NamespaceSystem
}

// NameOf is Name for an object that is not at hand.
func NameOf(k *Kind, namespace, name string) string {
	return k.Kind + " " + strings.TrimPrefix(namespace+"/"+name, "/")
}

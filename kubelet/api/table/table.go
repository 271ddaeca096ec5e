// Package table renders objects for kubectl get: as rows of columns, which a Kubernetes
// API builds on the server side (API conventions, "Receiving resources as Tables"). It
// is pure and safe for concurrent use.
package table

import (
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// Of returns the table of objects of one kind, in their order. now is the reference for
// ages. include says what each row contains of its object: the whole, its metadata, or
// nothing; "" means metadata.
func Of(k *object.Kind, objects []object.Object, now time.Time, include metav1.IncludeObjectPolicy) *metav1.Table {
	columns, cells := layout(k.New())
	t := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"},
		ColumnDefinitions: columns, Rows: make([]metav1.TableRow, 0, len(objects)),
	}
	for _, o := range objects {
		t.Rows = append(t.Rows, metav1.TableRow{Cells: cells(o, now), Object: carried(o, include)})
	}
	return t
}

func carried(o object.Object, include metav1.IncludeObjectPolicy) runtime.RawExtension {
	switch include {
	case metav1.IncludeNone:
		return runtime.RawExtension{}
	case metav1.IncludeObject:
		return runtime.RawExtension{Object: o}
	}
	meta := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}}
	meta.Name, meta.Namespace, meta.UID, meta.ResourceVersion = o.GetName(), o.GetNamespace(), o.GetUID(), o.GetResourceVersion()
	meta.Labels, meta.Annotations, meta.Generation = o.GetLabels(), o.GetAnnotations(), o.GetGeneration()
	meta.CreationTimestamp, meta.DeletionTimestamp = o.GetCreationTimestamp(), o.GetDeletionTimestamp()
	meta.Finalizers, meta.OwnerReferences = o.GetFinalizers(), o.GetOwnerReferences()
	return runtime.RawExtension{Object: meta}
}

// columns returns definitions for names; one that begins with "+" is only shown by -o
// wide.
func columns(names ...string) []metav1.TableColumnDefinition {
	list := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: "Name of the object, unique among its kind in its namespace"}}
	for _, name := range names {
		c := metav1.TableColumnDefinition{Name: name, Type: "string", Description: name}
		if name[0] == '+' {
			c.Name, c.Description, c.Priority = name[1:], name[1:], 1
		}
		list = append(list, c)
	}
	return list
}

type cellsOf func(o object.Object, now time.Time) []any

// layout returns the columns of a kind and the function that fills them.
func layout(example object.Object) ([]metav1.TableColumnDefinition, cellsOf) {
	switch example.(type) {
	case *v1.Pod:
		return columns("Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"), row(podCells)
	case *v1.Event:
		return eventColumns(), row(eventCells)
	case *v1.Node:
		return columns("Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version", "+Container-Runtime"), row(nodeCells)
	case *v1.ConfigMap:
		return columns("Data", "Age"), row(func(c *v1.ConfigMap, now time.Time) []any {
			return []any{c.Name, len(c.Data) + len(c.BinaryData), age(c, now)}
		})
	case *v1.Secret:
		return columns("Type", "Data", "Age"), row(func(s *v1.Secret, now time.Time) []any {
			return []any{s.Name, string(s.Type), len(s.Data), age(s, now)}
		})
	case *v1.ServiceAccount:
		return columns("Secrets", "Age"), row(func(s *v1.ServiceAccount, now time.Time) []any {
			return []any{s.Name, len(s.Secrets), age(s, now)}
		})
	case *v1.Namespace:
		return columns("Status", "Age"), row(func(n *v1.Namespace, now time.Time) []any {
			return []any{n.Name, string(n.Status.Phase), age(n, now)}
		})
	case *coordinationv1.Lease:
		return columns("Holder", "Age"), row(func(l *coordinationv1.Lease, now time.Time) []any {
			return []any{l.Name, value(l.Spec.HolderIdentity), age(l, now)}
		})
	case *nodev1.RuntimeClass:
		return columns("Handler", "Age"), row(func(c *nodev1.RuntimeClass, now time.Time) []any {
			return []any{c.Name, c.Handler, age(c, now)}
		})
	case *schedulingv1.PriorityClass:
		return columns("Value", "Global-Default", "Age", "PreemptionPolicy"), row(func(c *schedulingv1.PriorityClass, now time.Time) []any {
			return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c, now), string(value(c.PreemptionPolicy))}
		})
	}
	return storageLayout(example)
}

// storageLayout is layout for the kinds about storage, and for any other.
func storageLayout(example object.Object) ([]metav1.TableColumnDefinition, cellsOf) {
	switch example.(type) {
	case *v1.PersistentVolumeClaim:
		return columns("Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age", "+VolumeMode"), row(claimCells)
	case *v1.PersistentVolume:
		return columns("Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass",
			"VolumeAttributesClass", "Reason", "Age", "+VolumeMode"), row(volumeCells)
	case *storagev1.StorageClass:
		return columns("Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"), row(classCells)
	case *storagev1.CSIDriver:
		return columns("AttachRequired", "PodInfoOnMount", "StorageCapacity", "TokenRequests", "RequiresRepublish", "Modes", "Age"), row(driverCells)
	case *storagev1.CSINode:
		return columns("Drivers", "Age"), row(func(n *storagev1.CSINode, now time.Time) []any {
			return []any{n.Name, len(n.Spec.Drivers), age(n, now)}
		})
	case *storagev1.VolumeAttachment:
		return columns("Attacher", "PV", "Node", "Attached", "Age"), row(func(a *storagev1.VolumeAttachment, now time.Time) []any {
			return []any{a.Name, a.Spec.Attacher, value(a.Spec.Source.PersistentVolumeName), a.Spec.NodeName, a.Status.Attached, age(a, now)}
		})
	}
	return columns("Age"), func(o object.Object, now time.Time) []any { return []any{o.GetName(), age(o, now)} }
}

// row adapts a function for one type to the signature that all have.
func row[T object.Object](cells func(T, time.Time) []any) cellsOf {
	return func(o object.Object, now time.Time) []any { return cells(o.(T), now) }
}

func age(o object.Object, now time.Time) string { return since(o.GetCreationTimestamp().Time, now) }

func since(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}

func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// orNone returns the text, or what kubectl shows if it is empty.
func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}

func yesNo(b *bool) string { return fmt.Sprint(value(b)) }

package kubelet

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// objects adapts the client to the interfaces of the components.
type objects struct{ client *client.Client }

func (o objects) Get(ctx context.Context, namespace, name string, into object.Object) error {
	return o.client.Get(ctx, namespace, name, into)
}

func (o objects) Create(ctx context.Context, x object.Object) error { return o.client.Create(ctx, x) }

func (o objects) Update(ctx context.Context, x object.Object) error { return o.client.Update(ctx, x) }

func (o objects) Delete(ctx context.Context, x object.Object) error {
	return o.client.Delete(ctx, x, nil)
}

// SetStatus records a Pod's status. A Pod of which only the UID is known has no object.
func (o objects) SetStatus(ctx context.Context, p *v1.Pod, was, now *v1.PodStatus) error {
	if p.Namespace == "" {
		return nil
	}
	meta := metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	return o.client.PatchStatus(ctx, &v1.Pod{ObjectMeta: meta, Status: *was}, &v1.Pod{ObjectMeta: meta, Status: *now})
}

// Remove removes the object of a terminated Pod, if it has one.
func (o objects) Remove(ctx context.Context, p *v1.Pod) error {
	if p.Namespace == "" {
		return nil
	}
	if err := o.client.Delete(ctx, p, new(int64)); !errors.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// files is the API as seen by the manifest directory.
type files struct{ objects }

// End terminates a Pod.
func (f files) End(ctx context.Context, name types.NamespacedName, grace *int64) error {
	return f.client.Delete(ctx, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}, grace)
}

// All returns the objects of all kinds that manifest files may contain.
func (f files) All(ctx context.Context) ([]object.Object, error) {
	var all []object.Object
	for _, k := range object.Kinds() {
		if !k.InFiles {
			continue
		}
		list, err := f.client.ListKind(ctx, k)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

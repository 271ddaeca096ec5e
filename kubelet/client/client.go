// Package client is the kubelet's client of a Kubernetes API, be it the node's own or
// that of a cluster. It gets, lists, follows and writes objects by their Go type, and
// maps the API's errors to the kinds of package fault.
//
// Everything in it is safe for concurrent use. Nothing is cached.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"reflect"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// Client is a client of one API.
type Client struct {
	config *rest.Config
	rest   *rest.RESTClient
	log    slog.Handler
}

// New returns a client. It makes no request yet. A nil logger discards.
func New(c *rest.Config, logger *slog.Logger) (*Client, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	own := rest.CopyConfig(c)
	own.WarningHandler = rest.NoWarnings{} // meant for people
	own.QPS = -1                           // a node's Pods bound its own calls
	own.ContentConfig = rest.ContentConfig{NegotiatedSerializer: serializer.NewCodecFactory(object.Scheme()).WithoutConversion()}
	r, err := rest.UnversionedRESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API at %q: %w", c.Host, err)
	}
	return &Client{rest.CopyConfig(c), r, logger.Handler()}, nil
}

// Config returns the client's configuration, for other clients of the API.
func (c *Client) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Close closes idle connections.
func (c *Client) Close() { c.rest.Client.CloseIdleConnections() }

// at returns the path of an object, a subresource, or a collection.
func at(k *object.Kind, namespace string, more ...string) string {
	p := "/apis/" + k.GroupVersion().String()
	if k.Group == "" {
		p = "/api/" + k.Version
	}
	if k.Namespaced && namespace != "" {
		p = path.Join(p, "namespaces", namespace)
	}
	return path.Join(append([]string{p, k.Resource}, more...)...)
}

// Get reads an object into into. If there is none, it returns fault.NotFound.
func (c *Client) Get(ctx context.Context, namespace, name string, into object.Object) error {
	k, err := object.KindOf(into)
	if err != nil {
		return err
	}
	return told(c.rest.Get().AbsPath(at(k, namespace, name)).Do(ctx).Into(into))
}

// List reads all objects of T's kind that match the field selector fields; "" means
// all.
func List[T object.Object](ctx context.Context, c *Client, fields string) ([]T, error) {
	k, err := object.KindOf(*new(T))
	if err != nil {
		return nil, err
	}
	list, err := c.list(ctx, k, fields)
	out := make([]T, len(list))
	for i, o := range list {
		out[i] = o.(T)
	}
	return out, err
}

// ListKind is List for a kind that is not known at compile time.
func (c *Client) ListKind(ctx context.Context, k *object.Kind) ([]object.Object, error) {
	return c.list(ctx, k, "")
}

func (c *Client) list(ctx context.Context, k *object.Kind, fields string) ([]object.Object, error) {
	list := k.NewList()
	o := metav1.ListOptions{FieldSelector: fields}
	if err := c.rest.Get().AbsPath(at(k, "")).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(list); err != nil {
		return nil, told(err)
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, err
	}
	out := make([]object.Object, len(items))
	for i, o := range items {
		out[i] = o.(object.Object)
	}
	return out, nil
}

// Revision returns the API's current resourceVersion, as in a list of example's kind: a
// watch from there misses nothing.
func (c *Client) Revision(ctx context.Context, example object.Object) (string, error) {
	k, err := object.KindOf(example)
	if err != nil {
		return "", err
	}
	list := k.NewList()
	if err := c.rest.Get().AbsPath(at(k, "")).Param("limit", "1").Do(ctx).Into(list); err != nil {
		return "", told(err)
	}
	return list.(metav1.ListInterface).GetResourceVersion(), nil
}

// Create creates the object, and its status in a second step, as Update does. o is set
// to what is stored. If there is one of that name, it returns fault.AlreadyExists.
func (c *Client) Create(ctx context.Context, o object.Object) error {
	k, err := object.KindOf(o)
	if err != nil {
		return err
	}
	body := o.DeepCopyObject().(object.Object)
	body.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	if err := told(c.rest.Post().AbsPath(at(k, o.GetNamespace())).Body(body).Do(ctx).Into(o)); err != nil {
		return err
	}
	if p, ok := o.(*v1.Pod); ok && p.Spec.NodeName != "" {
		return nil // its status is the kubelet's
	}
	return c.status(ctx, o, body)
}

// Patch patches the object and sets o to what is stored.
func (c *Client) Patch(ctx context.Context, o object.Object, kind types.PatchType, patch []byte) error {
	k, err := object.KindOf(o)
	if err != nil {
		return err
	}
	return told(c.rest.Patch(kind).AbsPath(at(k, o.GetNamespace(), o.GetName())).Body(patch).Do(ctx).Into(o))
}

// Update replaces the object and, if its kind has a status subresource, its status in a
// second step. o is set to what is stored. It returns fault.NotFound if there is none,
// and fault.Aborted if o's resourceVersion or UID is not that of the stored object.
// After a crash between the steps only the first is done.
func (c *Client) Update(ctx context.Context, o object.Object) error {
	want := o.DeepCopyObject().(object.Object)
	if err := c.put(ctx, o); err != nil {
		return err
	}
	return c.status(ctx, o, want)
}

// UpdatePart updates a subresource of the object: a Pod's "ephemeralcontainers" or
// "resize".
func (c *Client) UpdatePart(ctx context.Context, part string, o object.Object) error {
	return c.put(ctx, o, part)
}

// status writes want's status if o has another.
func (c *Client) status(ctx context.Context, o, want object.Object) error {
	k, err := object.KindOf(o)
	if err != nil || !k.Status {
		return err
	}
	have, next := reflect.ValueOf(o).Elem().FieldByName("Status"), reflect.ValueOf(want).Elem().FieldByName("Status")
	if equality.Semantic.DeepEqual(have.Interface(), next.Interface()) {
		return nil
	}
	have.Set(next)
	return c.put(ctx, o, "status")
}

func (c *Client) put(ctx context.Context, o object.Object, part ...string) error {
	k, err := object.KindOf(o)
	if err != nil {
		return err
	}
	body := o.DeepCopyObject().(object.Object)
	body.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return told(c.rest.Put().AbsPath(at(k, o.GetNamespace(), append([]string{o.GetName()}, part...)...)).Body(body).Do(ctx).Into(o))
}

// PatchStatus writes the difference between two versions of an object, which should be
// in the status, and keeps what others wrote there. It applies only to the object with
// now's UID: another of its name is fault.NotFound.
func (c *Client) PatchStatus(ctx context.Context, was, now object.Object) error {
	k, err := object.KindOf(now)
	if err != nil {
		return err
	}
	patch, err := difference(was, now)
	if err != nil {
		return fmt.Errorf("comparing statuses of %s: %w", object.Name(now), err)
	}
	err = c.rest.Patch(types.StrategicMergePatchType).AbsPath(at(k, now.GetNamespace(), now.GetName(), "status")).Body(patch).Do(ctx).Error()
	if apierrors.IsConflict(err) {
		return fault.NotFound.Wrap(err)
	}
	return told(err)
}

// difference returns a strategic merge patch that applies only to the object's UID.
func difference(was, now object.Object) ([]byte, error) {
	old := was.DeepCopyObject().(object.Object)
	old.SetUID("") // so that the patch names it
	a, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(a, b, now)
}

// Delete deletes an object. If o has a UID, it deletes only the object with that UID.
// grace is the grace period of a Pod in seconds; nil means the Pod's own. If there is
// no such object, it returns fault.NotFound.
func (c *Client) Delete(ctx context.Context, o object.Object, grace *int64) error {
	k, err := object.KindOf(o)
	if err != nil {
		return err
	}
	opts := &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}, GracePeriodSeconds: grace}
	if uid := o.GetUID(); uid != "" {
		opts.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	err = c.rest.Delete().AbsPath(at(k, o.GetNamespace(), o.GetName())).Body(opts).Do(ctx).Error()
	if apierrors.IsConflict(err) {
		return fault.NotFound.Wrap(err)
	}
	return told(err)
}

// told wraps an API error with its kind. A full disk of the API is an answer, not an
// unavailable API: callers that wait for the API do not wait for room on its disk.
func told(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return fault.NotFound.Wrap(err)
	case apierrors.IsAlreadyExists(err):
		return fault.AlreadyExists.Wrap(err)
	case apierrors.IsConflict(err):
		return fault.Aborted.Wrap(err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fault.Invalid.Wrap(err)
	case apierrors.IsRequestEntityTooLargeError(err), code(err) == http.StatusInsufficientStorage:
		return fault.Exhausted.Wrap(err)
	case apierrors.IsForbidden(err):
		return fault.PermissionDenied.Wrap(err)
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return fault.OutOfRange.Wrap(err)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown, code(err) >= http.StatusInternalServerError:
		return fault.Unavailable.Wrap(err)
	}
	return err
}

func code(err error) int32 {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return s.Status().Code
	}
	return 0
}

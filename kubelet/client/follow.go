package client

import (
	"context"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// Handler receives objects, one call at a time. It must be quick. It may keep the
// objects, but must not change them.
type Handler struct {
	// Changed is called for each object that exists, and for each change. It may be
	// called twice for the same state.
	Changed func(object.Object)
	// Gone is called for each object that no longer exists, with its last known state.
	Gone func(object.Object)
	// Synced is called once, after Changed has been called for all objects that existed
	// at the start.
	Synced func()
}

// Follow passes all objects of example's kind that match the field selector fields (""
// for all) to the handler, until ctx ends. It continues when the API becomes
// unavailable and comes back, and misses no lasting change.
func (c *Client) Follow(ctx context.Context, example object.Object, fields string, h Handler) error {
	k, err := object.KindOf(example)
	if err != nil {
		return err
	}
	f := &follower{handler: h, known: map[types.UID]object.Object{}}
	reflector := cache.NewReflectorWithOptions(&source{c, k, fields}, k.New(), f, cache.ReflectorOptions{Name: k.Resource})
	reflector.RunWithContext(klog.NewContext(ctx, logr.FromSlogHandler(&until{c.log, ctx})))
	return nil
}

// until is a handler that discards after its context has ended: a reflector that is
// stopped logs its pending request as an error.
type until struct {
	slog.Handler
	end context.Context
}

func (u *until) Handle(ctx context.Context, r slog.Record) error {
	if u.end.Err() != nil {
		return nil
	}
	return u.Handler.Handle(ctx, r)
}

func (u *until) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &until{u.Handler.WithAttrs(attrs), u.end}
}

func (u *until) WithGroup(name string) slog.Handler { return &until{u.Handler.WithGroup(name), u.end} }

// source lists and watches one kind for a reflector.
type source struct {
	client *Client
	kind   *object.Kind
	fields string
}

func (s *source) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

func (s *source) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// ListWithContext and WatchWithContext are called by the reflector.
func (s *source) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.FieldSelector = s.fields
	list := s.kind.NewList()
	err := s.client.rest.Get().AbsPath(at(s.kind, "")).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(list)
	return list, err
}

func (s *source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch, o.FieldSelector = true, s.fields
	return s.client.rest.Get().AbsPath(at(s.kind, "")).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
}

// follower is a reflector's store that passes objects on instead of keeping them.
type follower struct {
	handler Handler
	synced  sync.Once
	known   map[types.UID]object.Object
}

func (f *follower) Add(o any) error { return f.changed(o) }

func (f *follower) Update(o any) error { return f.changed(o) }

func (f *follower) changed(x any) error {
	o, ok := x.(object.Object)
	if !ok {
		return fault.Internal.Errorf("following objects: %T is none", x)
	}
	f.known[o.GetUID()] = o
	f.handler.Changed(o)
	return nil
}

func (f *follower) Delete(x any) error {
	o, ok := x.(object.Object)
	if !ok {
		return fault.Internal.Errorf("following objects: %T is none", x)
	}
	delete(f.known, o.GetUID())
	f.handler.Gone(o)
	return nil
}

// Replace receives all objects, at the start and whenever changes were missed.
func (f *follower) Replace(list []any, _ string) error {
	there := map[types.UID]bool{}
	for _, x := range list {
		if o, ok := x.(object.Object); ok {
			there[o.GetUID()] = true
		}
	}
	for uid, o := range f.known {
		if !there[uid] {
			if err := f.Delete(o); err != nil {
				return err
			}
		}
	}
	for _, x := range list {
		if o, ok := x.(object.Object); ok && !equality.Semantic.DeepEqual(f.known[o.GetUID()], o) {
			if err := f.changed(o); err != nil {
				return err
			}
		}
	}
	f.synced.Do(f.handler.Synced)
	return nil
}

// Resync is for stores that keep something.
func (f *follower) Resync() error { return nil }

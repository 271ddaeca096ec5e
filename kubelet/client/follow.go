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

// Handler is told of objects, one call at a time. It must be quick. Objects are
// its own and may be kept, but not changed.
type Handler struct {
	// Changed is told of each object that is there, and of each change. It may be
	// told twice of the same.
	Changed func(object.Object)
	// Gone is told of each object that is not there any more, as it was last seen.
	Gone func(object.Object)
	// Synced is called once, when all objects that there were have been told of.
	Synced func()
}

// Follow tells the handler of all objects of example's kind, for which fields
// hold ("" for all), until ctx ends. It goes on when the API goes away and comes
// back, and misses nothing that lasted.
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

// until is a handler until its context ends: a reflector that was told to end calls
// the request that it had under way an error.
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

// ListWithContext and WatchWithContext are what a reflector calls.
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

// follower is a reflector's store that tells instead of keeping.
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

// Replace is told of everything that there is, at the beginning and whenever
// changes were missed.
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

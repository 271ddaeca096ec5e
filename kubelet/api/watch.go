package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

const (
	// bookmarkEvery is the interval of bookmarks, for a watch that asked for them.
	bookmarkEvery = time.Minute
	// watchMost is the minimum duration of a watch whose client sets no timeout; the
	// maximum is twice that, as in an API server.
	watchMost = 30 * time.Minute
)

// watch streams changes until the client disconnects, the timeout expires, or the
// server ends.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, t target) error {
	var o metav1.ListOptions
	if err := s.options(r, &o); err != nil {
		return err
	}
	if err := matchable(&o, true); err != nil {
		return err
	}
	sel, err := selected(t, &o)
	if err != nil {
		return err
	}
	at, err := revisionIn(o.ResourceVersion)
	if err != nil {
		return err
	}
	as, err := s.accepted(r)
	if err != nil {
		return err
	}
	timeout := watchMost + rand.N(watchMost) //nolint:gosec // spreads clients, decides nothing
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	stream, err := newStream(w, as, t.kind, include(r))
	if err != nil {
		return err
	}
	f := &follower{stream: stream, selection: sel, bookmarks: o.AllowWatchBookmarks}
	initial := o.SendInitialEvents != nil && *o.SendInitialEvents
	if at == 0 && o.SendInitialEvents != nil && !initial {
		at = s.config.Store.Revision()
	}
	if err := f.follow(ctx, s.config.Store, at, initial); err != nil {
		s.log.Debug("a watch ended", "resource", t.kind.Resource, "err", err)
	}
	return nil
}

// follower is one watch.
type follower struct {
	*stream
	*selection
	bookmarks bool
}

// follow sends the changes after the revision until ctx ends, but in any case those
// that exist already. So a watch makes progress however short its timeout and slow the
// machine, and a client can resume from the last resourceVersion that it saw. A client
// that names none, or asks for initial events, gets the existing objects first.
func (f *follower) follow(ctx context.Context, from *store.Store, at uint64, initial bool) error {
	if at == 0 || initial {
		var err error
		if at, err = f.existing(from); err != nil {
			return err
		}
		if initial {
			if err := f.bookmark(at, true); err != nil {
				return err
			}
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	w := from.Watch(f.selection.kind, at)
	for {
		tick, cancel := context.WithTimeout(ctx, bookmarkEvery)
		events, err := w.Next(tick)
		cancel()
		over := ctx.Err() != nil
		switch {
		case errors.Is(err, fault.OutOfRange):
			return errors.Join(f.expired(err), f.flush())
		case err != nil && f.bookmarks:
			err = f.bookmark(w.Revision(), false)
		default:
			err = f.changes(events)
		}
		if err := errors.Join(err, f.flush()); err != nil || over {
			return err
		}
	}
}

func (f *follower) existing(from *store.Store) (uint64, error) {
	objects, at := from.List(f.selection.kind, f.namespace)
	for _, o := range objects {
		if f.matches(o) {
			if err := f.object(watch.Added, o); err != nil {
				return 0, err
			}
		}
	}
	return at, nil
}

// changes sends events as seen through the selection: an object that enters it was
// added, one that leaves it was deleted.
func (f *follower) changes(events []*store.Event) error {
	for _, e := range events {
		was, is := f.matches(e.Before), e.Type != store.Deleted && f.matches(e.Object)
		var err error
		switch {
		case is && was:
			err = f.event(watch.Modified, e)
		case is:
			err = f.event(watch.Added, e)
		case was:
			err = f.event(watch.Deleted, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) expired(err error) error {
	status := apierrors.NewResourceExpired(err.Error()).Status()
	status.Kind, status.APIVersion = "Status", "v1"
	return f.send(watch.Error, &status)
}

// bookmark sends a bookmark with the revision reached; last ends the initial events.
func (f *follower) bookmark(at uint64, last bool) error {
	o := f.selection.kind.New()
	o.SetResourceVersion(strconv.FormatUint(at, 10))
	o.GetObjectKind().SetGroupVersionKind(f.selection.kind.GroupVersionKind)
	if last {
		o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return f.object(watch.Bookmark, o)
}

// stream writes watch events in the shape that the client asked for.
type stream struct {
	shape
	kind    *object.Kind
	include metav1.IncludeObjectPolicy
	out     http.ResponseWriter
	control *http.ResponseController
	frames  frameWriter
	rows    int // of a table, sent so far
}

type frameWriter interface{ Write([]byte) (int, error) }

func newStream(w http.ResponseWriter, as shape, k *object.Kind, include metav1.IncludeObjectPolicy) (*stream, error) {
	if as.info.StreamSerializer == nil {
		return nil, notAcceptable(as.media, "a watch is", mediaJSON, mediaProtobuf)
	}
	media := as.media
	if media != mediaJSON {
		media += ";stream=watch"
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(http.StatusOK)
	return &stream{
		shape: as, kind: k, include: include, out: w, control: http.NewResponseController(w),
		frames: as.info.StreamSerializer.NewFrameWriter(w),
	}, nil
}

func (s *stream) flush() error { return s.control.Flush() }

// event sends a change. Its JSON is encoded once for all watches.
func (s *stream) event(kind watch.EventType, e *store.Event) error {
	o := e.Object
	if kind == watch.Deleted && e.Type != store.Deleted {
		// It left the selection: the client gets the last state it knew, with the
		// revision of the change.
		o = e.Before.DeepCopyObject().(object.Object)
		o.SetResourceVersion(e.Object.GetResourceVersion())
		return s.object(kind, o)
	}
	if s.media != mediaJSON || s.as != "" {
		return s.object(kind, o)
	}
	data, err := e.JSON()
	if err != nil {
		return err
	}
	_, err = s.frames.Write(fmt.Appendf(nil, `{"type":%q,"object":%s}`+"\n", kind, data))
	return err
}

// object sends an object in the shape.
func (s *stream) object(kind watch.EventType, o object.Object) error {
	shaped := one(s.kind, o, s.shape, s.include)
	if t, ok := shaped.(*metav1.Table); ok {
		if s.rows++; s.rows > 1 {
			t.ColumnDefinitions = nil // as in an API server, which sends them once
		}
	}
	return s.send(kind, shaped)
}

func (s *stream) send(kind watch.EventType, o runtime.Object) error {
	var data bytes.Buffer
	if err := s.info.Serializer.Encode(o, &data); err != nil {
		return err
	}
	e := &metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: data.Bytes()}}
	return s.info.StreamSerializer.Encode(e, s.frames)
}

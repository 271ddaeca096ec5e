// Package call describes one call from the node to a plugin, over any wire: a gRPC
// method of CRI, CSI or the device plugin API, or one execution of a CNI plugin.
//
// Every call that the node makes passes one interceptor (internal/rpc for gRPC,
// cni/runtime for CNI), which reads the Pod from the context, measures the call, and
// reports it to an Observer when it has ended and when it takes long. Timelines,
// metrics, fault injection and recording all hook into that single place.
//
// The package imports only the standard library.
package call

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"
)

// Pod names the Pod on whose behalf a call is made. The zero Pod means that
// the call serves the node as a whole.
type Pod struct {
	Namespace string
	Name      string
	UID       string
}

// IsZero reports whether the call belongs to no Pod.
func (p Pod) IsZero() bool { return p == Pod{} }

// String returns namespace/name, or "node" for the zero Pod.
func (p Pod) String() string {
	if p.IsZero() {
		return "node"
	}
	return p.Namespace + "/" + p.Name
}

type podKey struct{}

// WithPod returns a context whose calls belong to the Pod.
func WithPod(ctx context.Context, p Pod) context.Context {
	return context.WithValue(ctx, podKey{}, p)
}

// PodFrom returns the Pod of the context, or the zero Pod.
func PodFrom(ctx context.Context) Pod {
	p, _ := ctx.Value(podKey{}).(Pod)
	return p
}

// Call is one call.
type Call struct {
	Pod    Pod
	Family string // "cri", "cni", "csi" or "deviceplugin"
	Plugin string // the plugin's name or its socket
	Method string // the RPC's short name ("RunPodSandbox") or the CNI verb ("ADD")
	Start  time.Time
	Took   time.Duration // until its end, or until now
	Limit  time.Duration // how long it may take; zero means no limit. Set only for Waits
	Err    error         // nil if the call succeeded
}

// Observer is notified of calls, by functions that may be nil. They are called
// concurrently and must return quickly. A nil *Observer is allowed wherever one is
// accepted. It must not be changed once it is in use.
type Observer struct {
	// Done is called after every call, on the calling goroutine.
	Done func(context.Context, Call)
	// Waits is called for a call that has no answer after Patience, and once more
	// after six times as long, on a goroutine of its own. It is never called after
	// Done for the same call: a call waits for Waits to return before it ends.
	Waits func(context.Context, Call)
	// Patience is how long a call may take before Waits is called. Zero means five
	// seconds, which no healthy call takes.
	Patience time.Duration

	plugin string // see Named
}

const (
	defaultPatience = 5 * time.Second
	secondPatience  = 6 // times the first
)

// Logged returns an observer that logs every call, for people who want to see what
// happens.
func Logged(log *slog.Logger) *Observer {
	return &Observer{Done: func(ctx context.Context, c Call) {
		log.DebugContext(ctx, "call", "family", c.Family, "method", c.Method, "took", c.Took, "err", c.Err)
	}}
}

// Named returns an observer that reports calls under the given plugin name, for
// callers that know only the plugin's socket. For a nil Observer it returns nil.
func (o *Observer) Named(plugin string) *Observer {
	if o == nil {
		return nil
	}
	named := *o
	named.plugin = plugin
	return &named
}

// Begin begins a call and sets its Start. The caller ends it with Open.Done.
func (o *Observer) Begin(ctx context.Context, c Call) Open {
	c.Start = time.Now()
	if o == nil {
		return Open{call: c}
	}
	c.Pod, c.Plugin = PodFrom(ctx), cmp.Or(o.plugin, c.Plugin)
	open := Open{observer: o, call: c}
	if o.Waits != nil {
		open.wait = o.await(ctx, c)
	}
	return open
}

// Open is a call that has begun.
type Open struct {
	observer *Observer // nil if nobody is notified
	call     Call
	wait     *wait // nil if nobody is notified before its end
}

// Call returns the call as it began.
func (b Open) Call() Call { return b.call }

// Done ends the call and reports it with the time since it began. ctx is that of Begin.
func (b Open) Done(ctx context.Context, err error) {
	if b.wait != nil {
		b.wait.end()
	}
	if b.observer == nil || b.observer.Done == nil {
		return
	}
	b.call.Took, b.call.Err = time.Since(b.call.Start), err
	b.observer.Done(ctx, b.call)
}

// wait is the timer of a call that has not ended. A timer costs a fast call a
// fraction of a microsecond, and no goroutine unless it fires.
type wait struct {
	mu    sync.Mutex // held while the observer is notified
	timer *time.Timer
	ended bool
}

func (o *Observer) await(ctx context.Context, c Call) *wait {
	patience := cmp.Or(o.Patience, defaultPatience)
	if end, limited := ctx.Deadline(); limited {
		c.Limit = end.Sub(c.Start)
	}
	w := &wait{}
	again := true
	w.mu.Lock() // until the timer is set
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(patience, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ended {
			return
		}
		c.Took = time.Since(c.Start)
		o.Waits(ctx, c)
		if again {
			again = false
			w.timer.Reset((secondPatience - 1) * patience)
		}
	})
	return w
}

func (w *wait) end() {
	if w.timer.Stop() {
		return
	}
	w.mu.Lock() // it may be notifying right now
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// Package call describes one call from the node to a plugin, whatever the
// wire: a gRPC method of CRI, CSI or the device plugin API, or one execution
// of a CNI plugin.
//
// Every call that the node makes passes one interceptor (internal/rpc for
// gRPC, cni/runtime for CNI), which reads the Pod from the context, measures
// the call and reports it to an Observer. Timelines, metrics, fault injection
// and recording all hang on that single place.
//
// The package imports only the standard library.
package call

import (
	"context"
	"log/slog"
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

// Call is one finished call.
type Call struct {
	Pod    Pod
	Family string // "cri", "cni", "csi" or "deviceplugin"
	Plugin string // the plugin's name or its socket
	Method string // the RPC's short name ("RunPodSandbox") or the CNI verb ("ADD")
	Start  time.Time
	Took   time.Duration
	Err    error // nil when the call succeeded
}

// Observer is told of every call after it ended. It is called from many
// goroutines at once, on the calling goroutine, and so must be quick. A nil
// Observer is allowed wherever one is taken.
type Observer func(context.Context, Call)

// Logged returns an observer that writes every call to the log, for who wants to see
// what happens.
func Logged(log *slog.Logger) Observer {
	return func(ctx context.Context, c Call) {
		log.DebugContext(ctx, "call", "family", c.Family, "method", c.Method, "took", c.Took, "err", c.Err)
	}
}

// Done reports c to the observer with the time since c.Start. It does nothing
// when o is nil.
func (o Observer) Done(ctx context.Context, c Call, err error) {
	if o == nil {
		return
	}
	c.Pod, c.Took, c.Err = PodFrom(ctx), time.Since(c.Start), err
	o(ctx, c)
}

package call

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"regexp"
)

// Trace is a W3C trace context: its two fields as in HTTP headers and environment
// variables. The zero Trace means that there is no tracing.
type Trace struct {
	Parent string // traceparent: "00-<trace id>-<span id>-<flags>"
	State  string // tracestate, opaque
}

var parentPattern = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

type traceKey struct{}

// WithTrace returns a context whose calls belong to the trace. If Parent is not a
// valid traceparent, which may come from anybody, it returns ctx unchanged.
func WithTrace(ctx context.Context, t Trace) context.Context {
	if !parentPattern.MatchString(t.Parent) {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceFrom returns the trace of the context, or the zero Trace.
func TraceFrom(ctx context.Context) Trace {
	t, _ := ctx.Value(traceKey{}).(Trace)
	return t
}

// Child returns the trace for a callee, with a span id of its own. The child of the
// zero Trace is the zero Trace.
func (t Trace) Child() Trace {
	const spanAt, spanEnd = 36, 52
	if !parentPattern.MatchString(t.Parent) {
		return Trace{}
	}
	span := make([]byte, (spanEnd-spanAt)/2)
	_, _ = rand.Read(span) // never fails
	span[0] |= 1           // an id of only zeros is invalid
	t.Parent = t.Parent[:spanAt] + hex.EncodeToString(span) + t.Parent[spanEnd:]
	return t
}

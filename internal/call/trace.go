package call

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"regexp"
)

// Trace is a W3C trace context: the two fields as HTTP headers and environment
// variables carry them. The zero Trace means that nobody traces.
type Trace struct {
	Parent string // traceparent: "00-<trace id>-<span id>-<flags>"
	State  string // tracestate, opaque
}

var parentPattern = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

type traceKey struct{}

// WithTrace returns a context whose calls belong to the trace. A Parent that is
// no traceparent, as a stranger may have sent it, leaves the context as it is.
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

// Child returns the trace as a callee gets it, with a span id of its own. The
// zero Trace has no children but itself.
func (t Trace) Child() Trace {
	const spanAt, spanEnd = 36, 52
	if !parentPattern.MatchString(t.Parent) {
		return Trace{}
	}
	span := make([]byte, (spanEnd-spanAt)/2)
	_, _ = rand.Read(span) // never fails
	span[0] |= 1           // an id of zeros alone is none
	t.Parent = t.Parent[:spanAt] + hex.EncodeToString(span) + t.Parent[spanEnd:]
	return t
}

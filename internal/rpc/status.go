package rpc

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// table is the one place where kinds and codes meet.
var table = map[fault.Kind]codes.Code{
	fault.Invalid:            codes.InvalidArgument,
	fault.NotFound:           codes.NotFound,
	fault.AlreadyExists:      codes.AlreadyExists,
	fault.FailedPrecondition: codes.FailedPrecondition,
	fault.Aborted:            codes.Aborted,
	fault.Unavailable:        codes.Unavailable,
	fault.Exhausted:          codes.ResourceExhausted,
	fault.OutOfRange:         codes.OutOfRange,
	fault.Unimplemented:      codes.Unimplemented,
	fault.PermissionDenied:   codes.PermissionDenied,
	fault.Unauthenticated:    codes.Unauthenticated,
	fault.Internal:           codes.Internal,
}

// ToStatus returns err as a gRPC status error. An error that is one already,
// and nil, come back as they are; the ends of contexts become Canceled and
// DeadlineExceeded. Of those without a kind a full disk's becomes ResourceExhausted,
// that of one that is read-only FailedPrecondition, and every other Internal.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	return status.Error(codeOf(err), shortened(err.Error()))
}

// maxText is how long the text of an error may be, in bytes. It travels in a
// header: one that quotes a huge request would break the connection, with every
// other call on it.
const maxText = 4096

func shortened(text string) string {
	if len(text) <= maxText {
		return text
	}
	const tail = 1024 // the cause is at the end
	return strings.ToValidUTF8(text[:maxText-tail]+" ... "+text[len(text)-tail:], "")
}

func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	var kind fault.Kind
	switch {
	case errors.As(err, &kind):
		kind = fault.Of(err) // the outermost
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = fault.Exhausted
	case errors.Is(err, syscall.EROFS):
		kind = fault.FailedPrecondition
	default:
		kind = fault.Internal
	}
	return table[kind]
}

// FromStatus gives a gRPC error its kind, so that errors.Is works on it. The
// status stays in the chain: status.Code still answers, and
// errors.Is(err, context.DeadlineExceeded) holds for that code.
func FromStatus(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	switch s.Code() {
	case codes.DeadlineExceeded:
		return &remote{status: s, kind: context.DeadlineExceeded}
	case codes.Canceled:
		return &remote{status: s, kind: context.Canceled}
	}
	for kind, code := range table {
		if code == s.Code() {
			return &remote{status: s, kind: kind}
		}
	}
	return &remote{status: s, kind: fault.Internal}
}

// remote is an error that a peer answered. Its text is the peer's own.
type remote struct {
	status *status.Status
	kind   error
}

func (r *remote) Error() string              { return r.status.Message() }
func (r *remote) Unwrap() error              { return r.kind }
func (r *remote) GRPCStatus() *status.Status { return r.status }

// quickReconnect keeps a restarted plugin from being waited for: gRPC's
// default backs off to two minutes, which is meant for networks.
func quickReconnect() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
}

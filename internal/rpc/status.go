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

// table is the only mapping between kinds and codes.
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

// ToStatus returns err as a gRPC status error. An error that already is one, and nil,
// are returned unchanged; context errors become Canceled and DeadlineExceeded. Of
// errors without a kind, that of a full disk becomes ResourceExhausted, that of a
// read-only file system FailedPrecondition, and any other Internal.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	return status.Error(codeOf(err), shortened(err.Error()))
}

// maxText is the maximum length of an error's text in bytes. It is sent in a header:
// a text that quotes a huge request would break the connection, with every other call
// on it.
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

// FromStatus gives a gRPC error its kind, so that errors.Is works on it. The status
// stays in the chain: status.Code still works, and errors.Is(err,
// context.DeadlineExceeded) holds for that code.
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

// remote is an error returned by a peer. Its text is the peer's own.
type remote struct {
	status *status.Status
	kind   error
}

func (r *remote) Error() string              { return r.status.Message() }
func (r *remote) Unwrap() error              { return r.kind }
func (r *remote) GRPCStatus() *status.Status { return r.status }

// quickReconnect avoids long waits for a restarted plugin: gRPC's default backs off
// to two minutes, which is meant for networks.
func quickReconnect() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
}

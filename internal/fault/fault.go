// Package fault holds the kinds of error that nodekit's families share.
//
// A kind says what a caller may do about an error; the text says what
// happened. SDK roots re-export the kinds that their specification allows
// (csi.ErrNotFound), internal/rpc maps them to gRPC codes and back in one
// place, and cni.Main maps them to the CNI error table. Callers test with
// errors.Is and never look at the text.
//
// The package imports only the standard library, so the CNI binary and the
// keeper may link it. All of it is safe for concurrent use.
package fault

import (
	"errors"
	"fmt"
)

// Kind is a class of error. A Kind is itself an error, so that
// errors.Is(err, fault.NotFound) works on any wrapped chain.
type Kind string

// The kinds. Their meaning is that of the gRPC code of the same name.
const (
	Invalid            Kind = "invalid argument"
	NotFound           Kind = "not found"
	AlreadyExists      Kind = "already exists"
	FailedPrecondition Kind = "failed precondition"
	Aborted            Kind = "aborted"
	Unavailable        Kind = "unavailable"
	Exhausted          Kind = "resource exhausted"
	OutOfRange         Kind = "out of range"
	Unimplemented      Kind = "unimplemented"
	PermissionDenied   Kind = "permission denied"
	Unauthenticated    Kind = "unauthenticated"
	Internal           Kind = "internal"
)

// Error returns the kind's name.
func (k Kind) Error() string { return string(k) }

// Errorf returns an error of the kind. The format and its %w verbs work as in
// fmt.Errorf; the kind's name is not added to the text.
func (k Kind) Errorf(format string, args ...any) error {
	return &withKind{kind: k, err: fmt.Errorf(format, args...)}
}

// Wrap gives err the kind and keeps its text. Wrap(nil) is nil. An error that
// already has a kind gets a second one; Of returns the outer.
func (k Kind) Wrap(err error) error {
	if err == nil {
		return nil
	}
	return &withKind{kind: k, err: err}
}

// Of returns the outermost kind in err's chain, or Internal when it has none.
// Of(nil) is the empty Kind.
func Of(err error) Kind {
	if err == nil {
		return ""
	}
	var w *withKind
	if errors.As(err, &w) {
		return w.kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}

type withKind struct {
	kind Kind
	err  error
}

func (w *withKind) Error() string { return w.err.Error() }

func (w *withKind) Unwrap() []error { return []error{w.err, w.kind} }

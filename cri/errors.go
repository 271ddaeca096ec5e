package cri

import "github.com/nodekit-project/nodekit/internal/fault"

// The kinds of error that the CRI allows; the package comment has the table.
// Make one with ErrNotFound.Errorf or ErrNotFound.Wrap, test for it with
// errors.Is, on the server's side and, with cri/client, on the client's.
const (
	ErrInvalid            = fault.Invalid
	ErrNotFound           = fault.NotFound
	ErrAlreadyExists      = fault.AlreadyExists
	ErrFailedPrecondition = fault.FailedPrecondition
	ErrUnavailable        = fault.Unavailable
	ErrExhausted          = fault.Exhausted
	ErrUnimplemented      = fault.Unimplemented
)

package cri

import "github.com/nodekit-project/nodekit/internal/fault"

// The error kinds that the CRI allows; see the table in the package comment. Create one
// with ErrNotFound.Errorf or ErrNotFound.Wrap and test for it with errors.Is, in the
// server and, with cri/client, in the client.
const (
	ErrInvalid            = fault.Invalid
	ErrNotFound           = fault.NotFound
	ErrAlreadyExists      = fault.AlreadyExists
	ErrFailedPrecondition = fault.FailedPrecondition
	ErrUnavailable        = fault.Unavailable
	ErrExhausted          = fault.Exhausted
	ErrUnimplemented      = fault.Unimplemented
)

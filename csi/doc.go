// Package csi is the SDK for drivers of the Container Storage Interface, version 1.13
// (github.com/container-storage-interface/spec).
//
// An author fills in a Driver, a struct of functions over plain Go data, and passes it
// to Serve. The SDK does the rest: the socket and the gRPC services; the capabilities,
// computed from the functions that are set; the validation of every request; one lock
// per volume and target, with Aborted for overlapping calls; the tables of
// NodeStageVolume and NodePublishVolume for repeated calls, kept in Driver.StateDir, so
// that they survive a kill -9; paging; recovery from panics; logs without secrets; and
// the registration with a kubelet.
//
// Two helper packages cover most of the driver's own work: csi/mount performs the
// mounts of a node plugin idempotently, and csi/store keeps the volumes of a driver
// whose state lives on this machine. The folder examples/csi-hello contains a complete
// driver.
//
// The SDK does not support attaching (ControllerPublishVolume), snapshots, expansion,
// modification, topology, groups and health yet. Its drivers do not advertise them, and
// the RPCs return Unimplemented.
//
// Errors: a function returns an error of one of the kinds below, as in
// ErrNotFound.Errorf("volume %q", id), and the caller gets the gRPC code of that name.
// A full disk becomes ErrExhausted, a read-only file system ErrFailedPrecondition, and
// any other error ErrInternal. The caller gets the text: never put a secret into it.
//
// Concurrency: functions are called from many goroutines. Two calls for one volume
// never overlap, except PublishVolume and UnpublishVolume for different targets, and
// functions that only read. The context of a call that changes something does not end
// when the caller gives up, so that work is never abandoned halfway; it ends when the
// server stops.
package csi

import "github.com/nodekit-project/nodekit/internal/fault"

// The kinds of error that the specification's error tables allow a driver. Test for one
// with errors.Is; create one with Errorf or Wrap.
const (
	ErrInvalid            = fault.Invalid
	ErrNotFound           = fault.NotFound
	ErrAlreadyExists      = fault.AlreadyExists
	ErrFailedPrecondition = fault.FailedPrecondition
	ErrAborted            = fault.Aborted
	ErrUnavailable        = fault.Unavailable
	ErrExhausted          = fault.Exhausted
	ErrOutOfRange         = fault.OutOfRange
	ErrUnimplemented      = fault.Unimplemented
	ErrPermissionDenied   = fault.PermissionDenied
	ErrUnauthenticated    = fault.Unauthenticated
	ErrInternal           = fault.Internal
)

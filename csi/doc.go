// Package csi is the SDK for drivers of the Container Storage Interface,
// version 1.13 (github.com/container-storage-interface/spec).
//
// An author fills in a Driver, a struct of functions over plain Go data, and
// hands it to Serve. The SDK does the rest: the socket and the gRPC services,
// the capabilities (computed from the functions that are set), the validation
// of every request, one lock per volume and target with Aborted for what
// overlaps, the tables of NodeStageVolume and NodePublishVolume for repeated
// calls (kept in Driver.StateDir, so they hold across kill -9), paging, panics,
// logs without secrets, and the registration with a kubelet.
//
// Two helpers beside it take most of what is left: csi/mount does the mounts of
// a node plugin idempotently, csi/store keeps the volumes of a driver whose
// state lives on this machine. The folder examples/csi-hello is a whole driver.
//
// What the SDK does not do yet: attaching (ControllerPublishVolume), snapshots,
// expansion, modification, topology, groups and health. A driver of this SDK
// does not advertise them, and they answer Unimplemented.
//
// Errors: a function returns an error of one of the kinds below (ErrNotFound.
// Errorf("volume %q", id)), and the caller sees the gRPC code of that name. A
// full disk becomes ErrExhausted, a read-only one ErrFailedPrecondition, and any other
// error Internal. The text goes to the caller: never put a secret into it.
//
// Concurrency: functions are called from many goroutines. Two calls for one
// volume never overlap, except PublishVolume and UnpublishVolume of different
// targets, and the functions that only read. The context of a call that changes
// something does not end when the caller gives up, so that work is never
// abandoned half way; it ends when the server stops.
package csi

import "github.com/nodekit-project/nodekit/internal/fault"

// The kinds of error that the specification's error tables allow a driver.
// Test with errors.Is; make one with Errorf or Wrap.
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

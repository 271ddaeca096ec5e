// Package cri is an SDK for container runtimes that serve the Kubernetes Container
// Runtime Interface (cri-api v0.37, runtime.v1).
//
// The author fills in the functions of a [Runtime]; [Serve] turns it into a CRI server
// and does everything that is the same in every runtime. It validates requests. It
// makes creating, stopping and removing idempotent. It records every object before
// anything is done for it, so that a killed server converges when it is restarted. It
// serves lists, statuses and events from memory, and provides the streaming server for
// exec, attach and port-forward.
//
// The package does not run containers itself (cri/oci does, with an OCI runtime), and
// it is not a client (cri/client).
//
// # Identity
//
// RunPodSandbox is identified by the Pod's uid and attempt, CreateContainer by the
// sandbox and the container's name and attempt. A repeated request joins the one in
// flight, or returns the existing object: a sandbox while it is ready, a container
// until it is started. After that the name is taken ([ErrAlreadyExists]). Ids may be
// abbreviated to any unique prefix.
//
// # Errors
//
// The functions of a Runtime return errors of the package's kinds; Serve maps them to
// gRPC codes. An error without a kind is Internal, except that a full disk (ENOSPC,
// EDQUOT) is ResourceExhausted and a read-only one (EROFS) FailedPrecondition.
//
//	ErrInvalid             InvalidArgument     the request can never succeed
//	ErrNotFound            NotFound            no such sandbox, container or image
//	ErrAlreadyExists       AlreadyExists       the name is taken by another object
//	ErrFailedPrecondition  FailedPrecondition  not in this state: start of an exited container
//	ErrUnavailable         Unavailable         not now, the same call may succeed later
//	ErrExhausted           ResourceExhausted   a limit is reached; a subscriber is too slow
//	ErrUnimplemented       Unimplemented       the Runtime has no such function
//	context.DeadlineExceeded  DeadlineExceeded the command of ExecSync ran out of time
//
// The text of an error says what the author could not do, and why. For a sandbox or
// container the SDK prepends the operation and the id (starting container "id": ...),
// so the author need not name it. It passes errors of Images and Exec on unchanged.
// Bytes that are not UTF-8 are replaced. A panic, a function that ends its
// goroutine (runtime.Goexit), or an error that is a nil pointer becomes Internal and names
// the function.
//
// The SDK itself answers as follows, before it calls the author (a dash means success,
// or a case that does not apply to the call):
//
//	                                  empty  unknown  container     container  sandbox
//	                                         id       not started   ended      stopped
//	RunPodSandbox, RestorePod         3      -        -             -          -
//	CreateContainer, PortForward,
//	PodSandboxStats,
//	UpdatePodSandboxResources         3      5        -             -          9
//	StartContainer                    3      5        -             9          9
//	UpdateContainerResources          3      5        -             9          -
//	ReopenContainerLog, ExecSync,
//	Exec, Attach, ContainerStats,
//	CheckpointContainer               3      5        9             9          -
//	CheckpointPod                     3      5        9             9          9
//	PodSandboxStatus, ContainerStatus 3      5        -             -          -
//	Stop- and RemovePodSandbox,
//	Stop- and RemoveContainer         3      -        -             -          -
//	ImageStatus, PullImage,
//	RemoveImage                       3      -        -             -          -
//	every other call                  -      -        -             -          -
//
//	3 InvalidArgument, 5 NotFound, 9 FailedPrecondition
//
// A call whose function the Runtime lacks always returns Unimplemented. So does a
// request for a feature that the handler or the Runtime does not declare; an unknown
// handler, an unknown enum value and a field that makes no sense are InvalidArgument.
// ImageStatus returns no error for an absent image. gRPC itself answers Internal to a
// string that it cannot decode because it is not UTF-8. Long texts are truncated.
//
// # Events
//
// GetContainerEvents sends the events of containers and, with the sandbox's id, of
// sandboxes, in the order of the changes. A subscriber that falls 1024 events behind is
// disconnected (ErrExhausted). The response header confirms the subscription and has
// what the CRI has no field for: nodekit-cri-sequence is the number of earlier events
// in the lifetime of the server identified by nodekit-cri-server, so that a subscriber
// can tell after a reconnect whether it missed any. A client that sends the metadata
// nodekit-cri-snapshot first receives one event for every sandbox in its current state,
// with its containers; the header has their number under the same name.
//
// # Concurrency
//
// Serve may be called for several Runtimes in one process, each with its own StateDir.
// See [Runtime] for the guarantees that an author's functions have.
//
// # Inside
//
// The server is composed of internal packages: state (the objects, on top of record on
// disk and event for subscribers), flight (which call may run when), stream, images,
// stats, metrics, info and validate. This package holds the contract and the order of
// steps: intent, the author's call, result.
package cri

// Package cri is an SDK for container runtimes that serve the Kubernetes
// Container Runtime Interface (cri-api v0.37, runtime.v1).
//
// The author fills in the functions of a [Runtime]; [Serve] makes a CRI server
// of it and does everything that is the same in every runtime: requests are
// validated; creation is idempotent and stopping and removing are, too; every
// object is on record before anything is done for it, so that a killed server
// converges when it is started again; lists, statuses and events are served
// from memory; exec, attach and port-forward get their streaming server.
//
// The package makes no container itself (cri/oci does, on an OCI runtime), and
// it is not a client (cri/client).
//
// # Identity
//
// RunPodSandbox is identified by the Pod's uid and attempt, CreateContainer by
// the sandbox, the container's name and attempt. A repeated request joins the
// one in flight, or answers with the sandbox while it is ready and with the
// container until it was started; after that the name is taken
// ([ErrAlreadyExists]). Ids may be shortened to any prefix that is unique.
//
// # Errors
//
// A function of the Runtime returns an error of one of the package's kinds;
// Serve answers with the gRPC code. Of those without a kind a full disk's (ENOSPC,
// EDQUOT) is ResourceExhausted, a read-only one's (EROFS) FailedPrecondition, and every
// other Internal.
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
// The text of an error says what the author could not do, and why. For a sandbox
// or a container the SDK puts before it what it asked for and the id (starting
// container "id": ...), so that the author does not name it. Errors of Images
// and Exec it passes on as they are. Bytes of it that are not UTF-8 are replaced. A
// panic, and an error that is a nil pointer, are Internal, and name the function.
//
// The SDK itself answers so, before the author is called (a dash is success, or
// a situation that the call does not have):
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
// A call whose function the Runtime lacks answers Unimplemented whatever is
// asked. A request that asks for a feature that the handler or the Runtime does
// not declare is Unimplemented, too; an unknown handler, an unknown enum value
// and a field that makes no sense are InvalidArgument. ImageStatus answers an
// absent image without error. A text that gRPC cannot decode, because it is not
// UTF-8, is answered by gRPC with Internal. Long texts are shortened.
//
// # Events
//
// GetContainerEvents tells of containers and, with the sandbox's id, of
// sandboxes, in the order of the changes. A subscriber that is 1024 events
// behind is cut off (ErrExhausted). The header of a subscription, which says that
// it stands, has what the CRI has no field for: nodekit-cri-sequence is the
// number of events before it, in the life of the server that nodekit-cri-server
// names, so that a subscriber can tell after a new subscription whether it
// missed any. A client that sends the metadata nodekit-cri-snapshot first gets
// one event for every sandbox as it is, with its containers; the header has
// their number under the same name.
//
// # Concurrency
//
// Serve may be called for several Runtimes in one process, each with a
// StateDir of its own. See [Runtime] for what an author's function may expect.
//
// # Inside
//
// The server is composed of packages below internal: state (what it knows, over
// record on disk and event for subscribers), flight (which call may run when),
// stream, images, stats, metrics, info and validate. This package holds the contract and the
// order of things: intent, the author's call, result.
package cri

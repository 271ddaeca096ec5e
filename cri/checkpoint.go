package cri

import "context"

// The calls themselves are in save.go and restore.go.

// Checkpoints save running containers and Pods to files, and restore Pods. A
// function left nil answers Unimplemented for the calls that need it:
// CheckpointContainer needs Container; CheckpointPod needs Pause, Resume and
// Dump; RestorePod needs Restore.
//
// None of them is called while anything else changes in the sandbox. Unlike
// those of other calls their contexts end with the client's, for that is what
// the CRI asks for here, and when something of the Pod is to be stopped or
// removed, which does not wait for a checkpoint; the SDK cleans up after that
// with a context of its own.
type Checkpoints struct {
	// Container writes an archive of the running container to a new file and
	// leaves the container running, also on an error. The SDK moves a complete
	// file to where the client wants it, and removes any other, after a crash at
	// the next start. A runtime that may leave the container paused when it is
	// killed has Resume, which is called for it whatever came of Container.
	Container func(ctx context.Context, c *Container, file string) error

	// Pause freezes the processes of a running container. StopContainer must be
	// able to end them then: Resume may fail.
	Pause func(context.Context, *Container) error
	// Resume thaws them. The SDK calls it for every container of a checkpoint,
	// whatever came of Pause and Dump, and after a crash of the server for every
	// running container of the sandbox.
	// Idempotent, also for a container that was not paused.
	Resume func(context.Context, *Container) error
	// Dump writes a checkpoint of the whole Pod to dir, which is empty and
	// exists. All of the containers are paused. After an error the SDK empties
	// the directory; after a crash that is left to the client, who owns it.
	// options are among Options; a value that makes
	// no sense is refused with ErrInvalid.
	Dump func(ctx context.Context, s *Sandbox, containers []*Container, dir string, options map[string]string) error

	// Restore makes a new sandbox ready and creates its containers from the
	// checkpoint in dir, which it only reads. It stands for RunSandbox and one
	// CreateContainer each, and sets what they set. It refuses a checkpoint of
	// another set of container names with ErrInvalid. No process runs yet:
	// StartContainer lets each go on. After an error, or a crash,
	// RemoveContainer, StopSandbox and RemoveSandbox are next; they must cope
	// with any part of the work.
	Restore func(ctx context.Context, s *Sandbox, containers []*Container, dir string, options map[string]string) error

	// Options and RestoreOptions are the keys that CheckpointPod and RestorePod
	// accept. Any other is refused.
	Options, RestoreOptions []string
}

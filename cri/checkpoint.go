package cri

import "context"

// The calls themselves are in save.go and restore.go.

// Checkpoints save running containers and Pods to files, and restore Pods. A nil
// function makes the calls that need it return Unimplemented: CheckpointContainer needs
// Container; CheckpointPod needs Pause, Resume and Dump; RestorePod needs Restore.
//
// None of them is called while anything else changes in the sandbox. Unlike those of
// other calls, their contexts end with the client's, as the CRI asks. They also end
// when part of the Pod is to be stopped or removed, which does not wait for a
// checkpoint. The SDK then cleans up with a context of its own.
type Checkpoints struct {
	// Container writes an archive of the running container to a new file and leaves the
	// container running, also after an error. The SDK moves a complete file to the
	// location that the client asked for and removes an incomplete one, after a crash
	// at the next start. A runtime that may leave the container paused if it is killed
	// must have Resume, which is called for the container after Container in any case.
	Container func(ctx context.Context, c *Container, file string) error

	// Pause freezes the processes of a running container. StopContainer must be able to
	// end them even then, because Resume may fail.
	Pause func(context.Context, *Container) error
	// Resume thaws them. The SDK calls it for every container of a checkpoint, even if
	// Pause or Dump failed, and after a crash of the server for every running container
	// of the sandbox. Idempotent, also for a container that was not paused.
	Resume func(context.Context, *Container) error
	// Dump writes a checkpoint of the whole Pod to dir, an existing empty directory.
	// All the containers are paused. After an error the SDK empties the directory;
	// after a crash that is left to the client, who owns it. The keys of options are
	// among Options; Dump refuses invalid values with ErrInvalid.
	Dump func(ctx context.Context, s *Sandbox, containers []*Container, dir string, options map[string]string) error

	// Restore makes a new sandbox ready and creates its containers from the checkpoint
	// in dir, which it only reads. It replaces RunSandbox and one CreateContainer for
	// each, and sets what they set. It refuses a checkpoint of a different set of
	// container names with ErrInvalid. No process runs yet: StartContainer resumes each
	// container. After an error or a crash the SDK calls RemoveContainer, StopSandbox
	// and RemoveSandbox; they must cope with any part of the work.
	Restore func(ctx context.Context, s *Sandbox, containers []*Container, dir string, options map[string]string) error

	// Options and RestoreOptions are the option keys that CheckpointPod and RestorePod
	// accept. Others are refused.
	Options, RestoreOptions []string
}

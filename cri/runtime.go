package cri

import (
	"context"
	"encoding/json"
	"io"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is what the author of a CRI runtime fills in. The SDK serves the
// whole of the CRI from it: it validates requests, keeps the records of
// sandboxes and containers (in memory for reads, on disk across restarts),
// makes creation idempotent by (pod uid, attempt) and stopping and removing
// idempotent by id, answers every list and status from memory, and sends
// container events. A function left nil answers Unimplemented, which Serve
// logs once.
//
// Calls for one sandbox and its containers never overlap, with two exceptions:
// StopContainer of different containers of the sandbox may overlap, and Exec,
// Attach, PortForward and Stats overlap with anything. Calls for different
// sandboxes do, too. The context of a call that changes something is detached
// from the client's: it ends when the server stops, not when the client gives
// up, so that a retry joins the call in flight. That of StopContainer ends also
// when somebody wants the container dead sooner; it is called again then, with
// less grace.
//
// After a crash the SDK calls Recover with what its records say before it
// serves anybody.
type Runtime struct {
	// Name and Version are reported by the Version call. Both are required.
	Name, Version string
	// Handlers are the RuntimeClass handlers that RunSandbox accepts beside
	// the empty one. Any other handler is refused before RunSandbox is called.
	Handlers []string
	// CgroupDriver is what RuntimeConfig answers. The zero value is SYSTEMD.
	CgroupDriver runtimeapi.CgroupDriver

	// RunSandbox makes the sandbox ready, network included, and sets its IPs
	// and State. When it returns an error, or the process dies in it,
	// StopSandbox and RemoveSandbox are called next; they must cope with any
	// part of the work.
	RunSandbox func(context.Context, *Sandbox) error
	// StopSandbox frees what the sandbox holds outside its own directory: the
	// network first of all. All its containers have been stopped before.
	// Idempotent.
	StopSandbox func(context.Context, *Sandbox) error
	// RemoveSandbox removes what is left. Idempotent; StopSandbox came before.
	RemoveSandbox func(context.Context, *Sandbox) error

	// CreateContainer prepares the container without running its program. When
	// it returns an error, or the process dies in it, RemoveContainer is next.
	CreateContainer func(context.Context, *Container) error
	// StartContainer runs the program of a created container. The SDK marks
	// the container running when it returns nil; Watch reports its end.
	StartContainer func(context.Context, *Container) error
	// StopContainer sends the container's stop signal, waits up to grace for
	// its end and then kills it; it returns when the container has ended. Zero
	// grace kills at once. Idempotent.
	StopContainer func(ctx context.Context, c *Container, grace time.Duration) error
	// RemoveContainer removes what is left of a stopped or half created
	// container. The log file stays: it belongs to the kubelet. Idempotent.
	RemoveContainer func(context.Context, *Container) error
	// UpdateContainer applies new limits at once or returns an error and
	// changes nothing.
	UpdateContainer func(context.Context, *Container, *runtimeapi.LinuxContainerResources) error
	// ReopenLog closes and opens the container's log file after a rotation.
	ReopenLog func(context.Context, *Container) error

	// Exec runs a command in a running container and returns its exit code. It
	// serves ExecSync and Exec. When ctx ends the command is killed.
	Exec func(ctx context.Context, c *Container, cmd []string, s Streams) (exitCode int32, err error)
	// Attach joins the streams of the container's own process until they end.
	Attach func(ctx context.Context, c *Container, s Streams) error
	// PortForward carries one connection to a port inside the sandbox and
	// closes conn.
	PortForward func(ctx context.Context, s *Sandbox, port int32, conn io.ReadWriteCloser) error

	// Stats returns the container's usage now.
	Stats func(context.Context, *Container) (*runtimeapi.ContainerStats, error)
	// NetworkReady returns nil when Pods can be given a network; its error is
	// the message of the NetworkReady condition. nil means always ready.
	NetworkReady func(context.Context) error

	// Recover is called once, before the first call of a client, with every
	// sandbox and container on record. It corrects them to what is true now:
	// containers that ended meanwhile get their Exit, sandboxes that are gone
	// are marked not Ready. nil means that all records are believed.
	Recover func(context.Context, []*Sandbox, []*Container) error
	// Watch runs for the life of the server and reports the end of every
	// started container, once and soon. A report about a container that Recover
	// already corrected is ignored. nil means that only StopContainer ends
	// containers.
	Watch func(ctx context.Context, ended func(containerID string, e Exit)) error

	// Images serves the image service. It is required for a kubelet.
	Images *Images
}

// Sandbox is a Pod sandbox as the SDK records it. The author may change IPs,
// Ready and State during RunSandbox, StopSandbox and Recover, and nothing else
// ever.
type Sandbox struct {
	ID     string
	Config *runtimeapi.PodSandboxConfig
	// Handler is the RuntimeClass handler, "" for the default.
	Handler   string
	CreatedAt time.Time
	// Dir is a directory of the sandbox's own, made before RunSandbox and
	// removed after RemoveSandbox. It survives a restart, not a reboot of tmpfs.
	Dir string

	Ready bool
	IPs   []string // the primary address first; none on the host's network
	// State is the author's own record, stored with the sandbox.
	State json.RawMessage
}

// Container is a container as the SDK records it. The author may change State,
// ImageRef, Exit and LogPath during CreateContainer, StartContainer and
// Recover, and nothing else ever.
type Container struct {
	ID        string
	Sandbox   *Sandbox
	Config    *runtimeapi.ContainerConfig
	CreatedAt time.Time
	StartedAt time.Time // zero until started
	Exit      *Exit     // nil until ended
	// ImageRef is the id of the image as Images.Status reports it.
	ImageRef string
	// LogPath is the absolute log file: the sandbox's log directory joined with
	// the container's log path, or "" when either is empty.
	LogPath string
	// Dir is a directory of the container's own, with the life of Sandbox.Dir.
	Dir   string
	State json.RawMessage
}

// Running reports whether the container was started and has not ended.
func (c *Container) Running() bool { return !c.StartedAt.IsZero() && c.Exit == nil }

// Exit is how a container ended.
type Exit struct {
	Code int32 // 128+n for death by signal n
	At   time.Time
	// Reason is "Completed", "Error", "OOMKilled" or "ContainerStatusUnknown".
	// Empty derives Completed or Error from the code.
	Reason  string
	Message string
}

// Streams are the ends of an exec or attach. A nil stream was not asked for.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool // one terminal: Stderr is nil
	// Resize delivers terminal sizes while the call runs; nil without TTY.
	Resize <-chan Size
}

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// Images is the image service of a Runtime. References are what a user writes
// ("busybox", "registry/repo:tag", "repo@sha256:..."), or an image's id.
type Images struct {
	// List returns every image.
	List func(context.Context) ([]*runtimeapi.Image, error)
	// Status returns the image, or nil and no error when it is not present.
	Status func(ctx context.Context, ref string) (*runtimeapi.Image, error)
	// Pull fetches the image and returns its id, the same value that Status
	// reports. auth is nil when the caller has no credentials. Concurrent pulls
	// of one reference should do the work once.
	Pull func(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (id string, err error)
	// Remove removes the image with all its names. Idempotent.
	Remove func(ctx context.Context, ref string) error
	// FsInfo reports the file system that holds the images.
	FsInfo func(context.Context) (*runtimeapi.FilesystemUsage, error)
}

package cri

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is what the author of a CRI runtime fills in. The SDK serves the whole CRI
// from it: it validates requests, keeps the records of sandboxes and containers (in
// memory for reads, on disk across restarts), makes creation idempotent by (pod uid,
// attempt) and stopping and removing idempotent by id, answers every list and status
// from memory, and sends container events. Unless its comment says otherwise, a nil
// function makes its calls return Unimplemented, which Serve logs once.
//
// Calls for one sandbox and its containers never overlap, with two exceptions.
// StopContainer of different containers may overlap, with each other and with a change
// by Limits of another container. Exec, Attach, PortForward and read-only functions
// (Stats, SandboxStats, Metrics, Info) overlap with anything. Calls for different
// sandboxes overlap, too. The context of a call that changes something is detached from
// the client's: it ends when the server stops, not when the client gives up, so that a
// retry joins the call in flight. That of StopContainer also ends when a later request
// leaves the container less time; StopContainer is then called again, with less grace.
//
// After a crash the SDK calls Recover with its records before it serves any client.
type Runtime struct {
	// Name and Version are reported by the Version call. Both are required.
	Name, Version string
	// Handlers are the RuntimeClass handlers that RunSandbox accepts, with their
	// features. The default handler has the empty name; it is accepted even if it is
	// not listed, but then has no special features. The SDK refuses any other handler
	// before it calls the author, and any request for what the handler or Features do
	// not have: nothing is silently ignored.
	Handlers []Handler
	// Features are the features of the runtime with any handler.
	Features Features
	// CgroupDriver is the answer to RuntimeConfig. The zero value is SYSTEMD.
	CgroupDriver runtimeapi.CgroupDriver

	// RunSandbox makes the sandbox ready, network included, and sets its IPs and State.
	// If it returns an error, or the process dies in it, StopSandbox and RemoveSandbox
	// are called next; they must cope with any part of the work.
	RunSandbox func(context.Context, *Sandbox) error
	// StopSandbox releases what the sandbox holds outside its own directory, first of
	// all the network. All its containers have been stopped before. Idempotent.
	StopSandbox func(context.Context, *Sandbox) error
	// RemoveSandbox removes what is left, after StopSandbox. Idempotent.
	RemoveSandbox func(context.Context, *Sandbox) error

	// CreateContainer prepares the container without running its program. If it returns
	// an error, or the process dies in it, RemoveContainer is called next.
	CreateContainer func(context.Context, *Container) error
	// StartContainer runs the program of a created container. When it returns nil, the
	// SDK marks the container as running; Watch reports its end. Its context also ends
	// when the container is to be stopped or removed; context.Cause is then an
	// ErrFailedPrecondition, which it is not when the server stops. After an error,
	// StopContainer is called next, without grace.
	StartContainer func(context.Context, *Container) error
	// StopContainer sends the container's stop signal, waits up to grace for it to end,
	// and then kills it. It returns when the container has ended. Zero grace kills at
	// once. Idempotent.
	StopContainer func(ctx context.Context, c *Container, grace time.Duration) error
	// RemoveContainer removes what is left of a stopped or partly created container.
	// The log file stays: it belongs to the kubelet. Idempotent.
	RemoveContainer func(context.Context, *Container) error
	// UpdateContainer applies new limits at once, or returns an error and changes
	// nothing. The SDK then records them in Container.Config. If it applies limits
	// other than the requested ones, as NRI plugins may ask, it modifies the message
	// accordingly.
	UpdateContainer func(context.Context, *Container, *runtimeapi.LinuxContainerResources) error
	// UpdateSandbox receives a Pod's new overhead and the new sum of its containers'
	// limits, after the kubelet has written them to the Pod's cgroup. Either may be
	// nil, which means unchanged. It applies them to whatever else has a limit (a
	// virtual machine), or returns an error and changes nothing. The SDK then records
	// them in Sandbox.Config. A repeated call may have the same values.
	UpdateSandbox func(ctx context.Context, s *Sandbox, overhead, resources *runtimeapi.LinuxContainerResources) error
	// ReopenLog closes and reopens the container's log file after a rotation.
	ReopenLog func(context.Context, *Container) error

	// Exec runs a command in a running container and returns its exit code. It serves
	// ExecSync and Exec. It returns when the command has ended, even if a child of the
	// command holds the streams open for longer (exec.Cmd.WaitDelay). When ctx ends,
	// for example because the client has gone, Exec kills the command.
	Exec func(ctx context.Context, c *Container, cmd []string, s Streams) (exitCode int32, err error)
	// Attach connects to the streams of the container's main process until they end, or
	// until ctx ends because the client has gone.
	Attach func(ctx context.Context, c *Container, s Streams) error
	// PortForward carries one connection to a port inside the sandbox and closes conn.
	// Close tells the client that no more data comes; conn may still be read after it.
	// ctx ends when the client has gone.
	PortForward func(ctx context.Context, s *Sandbox, port int32, conn io.ReadWriteCloser) error

	// Stats returns the current usage of a running container.
	Stats func(context.Context, *Container) (*runtimeapi.ContainerStats, error)
	// SandboxStats returns the current usage of the Pod as a whole: its cpu, memory,
	// io, processes and network. The SDK adds the containers, from Stats.
	SandboxStats func(context.Context, *Sandbox) (*runtimeapi.LinuxPodSandboxStats, error)
	// Metrics are the time series of Pods and containers for a monitoring system.
	Metrics *Metrics

	// NetworkReady returns nil if Pods can be connected to the network; its error
	// becomes the message of the NetworkReady condition. A nil function means always
	// ready.
	NetworkReady func(context.Context) error
	// SetPodCIDR receives the address ranges that the cluster assigned to the node, one
	// per address family, when the kubelet learns of them and whenever it starts. A
	// runtime that allocates addresses from them must store them itself: they are not
	// sent again when only the runtime restarts. Nil means that the network
	// configuration has its own ranges; the call succeeds.
	SetPodCIDR func(ctx context.Context, ranges []netip.Prefix) error

	// Checkpoints save running containers and Pods to files.
	Checkpoints *Checkpoints
	// Info adds to verbose statuses.
	Info Info

	// Recover is called once, before the first call of a client, with all recorded
	// sandboxes and containers. It corrects them to the actual state: containers that
	// have ended get their Exit, sandboxes that are gone are marked not Ready. After a
	// power failure the most recently changed ones may be missing: anything that the
	// author keeps elsewhere for sandboxes or containers not listed is orphaned. Nil
	// means that all records are trusted.
	Recover func(context.Context, []*Sandbox, []*Container) error
	// Watch runs for the lifetime of the server and reports the end of every started
	// container, once and promptly. A report about a container that Recover has already
	// corrected is ignored. Nil means that only StopContainer ends containers.
	Watch func(ctx context.Context, ended func(containerID string, e Exit)) error

	// Limits, if not nil, is called once, before Recover, with a function that changes
	// limits without a client's request: package cri/nri does so for its plugins.
	Limits func(ChangeLimits)

	// Images serves the image service. It is required for a kubelet.
	Images *Images
}

// Sandbox is a Pod sandbox as the SDK records it. The author may change IPs, Ready and
// State during RunSandbox, StopSandbox and Recover, and nothing else: other changes are
// reverted. Every call has a copy of its own: goroutines that outlive the call may go on
// reading it, and what is changed after the call is not recorded.
type Sandbox struct {
	ID     string
	Config *runtimeapi.PodSandboxConfig
	// Handler is the RuntimeClass handler, "" for the default.
	Handler   string
	CreatedAt time.Time
	// Dir is the sandbox's own directory, created before RunSandbox and removed after
	// RemoveSandbox. It survives a restart but, on tmpfs, not a reboot.
	Dir string

	Ready bool
	IPs   []string // the primary address first; none on the host's network
	// State is the author's own data, stored with the sandbox.
	State json.RawMessage
}

// Container is a container as the SDK records it. The author may change State,
// ImageRef, Exit, LogPath, User and StopSignal during CreateContainer, StartContainer
// and Recover. During CreateContainer and Restore it may also set Config to a copy with
// the limits that the container really gets, and during Recover set StartedAt to zero
// if a start was recorded but never begun. Other changes are reverted. Every call has a
// copy of its own, as with Sandbox.
type Container struct {
	ID        string
	Sandbox   *Sandbox
	Config    *runtimeapi.ContainerConfig
	CreatedAt time.Time
	StartedAt time.Time // zero until started
	Exit      *Exit     // nil until ended
	// ImageRef is the id of the image as Images.Status reports it.
	ImageRef string
	// LogPath is the absolute path of the log file: the sandbox's log directory joined
	// with the container's log path, or "" if either is empty. Between the two there may
	// be symbolic links by somebody who can write there, which OpenLog does not follow.
	LogPath string
	// User is the user of the first process; nil if the author does not say.
	User *runtimeapi.LinuxContainerUser
	// StopSignal is the first signal that StopContainer sends. It comes from Config
	// until the author sets a better one, from the image.
	StopSignal runtimeapi.Signal
	// Dir is the container's own directory, with the same lifetime as Sandbox.Dir.
	Dir   string
	State json.RawMessage
}

// Running reports whether the container was started and has not ended.
func (c *Container) Running() bool { return !c.StartedAt.IsZero() && c.Exit == nil }

// Exit describes how a container ended.
type Exit struct {
	Code int32 // 128+n for death by signal n
	At   time.Time
	// Reason is "Completed", "Error", "OOMKilled" or "ContainerStatusUnknown". If
	// empty, Completed or Error is derived from the code.
	Reason  string
	Message string
}

// Streams are the streams of an exec or attach. A nil stream was not requested.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool // one terminal: Stderr is nil
	// Resize delivers terminal sizes while the call runs; nil without TTY.
	Resize <-chan Size
}

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

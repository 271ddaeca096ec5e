package cri

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
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
// StopContainer of different containers of the sandbox may overlap, with each other
// and with what Limits changes of a third, and Exec,
// Attach, PortForward and what only looks (Stats, SandboxStats, Metrics, Info)
// overlap with anything. Calls for different
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
	// Handlers are the RuntimeClass handlers that RunSandbox accepts, with what
	// each can do. The default one has the empty name; it is accepted also when
	// it is not among them, and can do nothing special then. Any other handler
	// is refused before the author is called, and so is a request for what the
	// handler or Features do not have: nothing is silently left out.
	Handlers []Handler
	// Features are what the runtime can do with any handler.
	Features Features
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
	// the container running when it returns nil; Watch reports its end. Its context
	// ends also when somebody wants the container dead, and has then a cause
	// (context.Cause) that is ErrFailedPrecondition, which it has not when the server
	// stops. After an error, StopContainer is called next, without grace.
	StartContainer func(context.Context, *Container) error
	// StopContainer sends the container's stop signal, waits up to grace for
	// its end and then kills it; it returns when the container has ended. Zero
	// grace kills at once. Idempotent.
	StopContainer func(ctx context.Context, c *Container, grace time.Duration) error
	// RemoveContainer removes what is left of a stopped or half created
	// container. The log file stays: it belongs to the kubelet. Idempotent.
	RemoveContainer func(context.Context, *Container) error
	// UpdateContainer applies new limits at once or returns an error and
	// changes nothing. The SDK records them in Container.Config after it. When it
	// applies others than it was asked for, as NRI plugins may want, it changes the
	// message to those.
	UpdateContainer func(context.Context, *Container, *runtimeapi.LinuxContainerResources) error
	// UpdateSandbox is told of a Pod's new overhead and of the new sum of its
	// containers' limits, after the kubelet has written them to the Pod's
	// cgroup. Either may be nil, which leaves it as it is. It applies them to
	// what else has a limit (a virtual machine) or returns an error and changes
	// nothing. The SDK records them in Sandbox.Config after it. A repeated call
	// may have the same values.
	UpdateSandbox func(ctx context.Context, s *Sandbox, overhead, resources *runtimeapi.LinuxContainerResources) error
	// ReopenLog closes and opens the container's log file after a rotation.
	ReopenLog func(context.Context, *Container) error

	// Exec runs a command in a running container and returns its exit code. It
	// serves ExecSync and Exec. It returns when the command has ended, though a child of
	// it may hold the streams for longer (exec.Cmd.WaitDelay). When ctx ends, which it
	// does when the client has gone, the command is killed.
	Exec func(ctx context.Context, c *Container, cmd []string, s Streams) (exitCode int32, err error)
	// Attach joins the streams of the container's own process until they end, or ctx
	// does because the client has gone.
	Attach func(ctx context.Context, c *Container, s Streams) error
	// PortForward carries one connection to a port inside the sandbox and
	// closes conn. After the Close, which tells the client that it is sent nothing
	// more, the client may be read from still. When ctx ends nobody is there.
	PortForward func(ctx context.Context, s *Sandbox, port int32, conn io.ReadWriteCloser) error

	// Stats returns the container's usage now. Only running containers are
	// asked for.
	Stats func(context.Context, *Container) (*runtimeapi.ContainerStats, error)
	// SandboxStats returns the usage of the Pod as a whole now: its cpu, memory,
	// io, processes and network. The SDK adds the containers, from Stats.
	SandboxStats func(context.Context, *Sandbox) (*runtimeapi.LinuxPodSandboxStats, error)
	// Metrics are the time series of Pods and containers for a monitoring system.
	Metrics *Metrics

	// NetworkReady returns nil when Pods can be given a network; its error is
	// the message of the NetworkReady condition. nil means always ready.
	NetworkReady func(context.Context) error
	// SetPodCIDR is told of the ranges that the cluster gave to the node, one
	// for each address family, when the kubelet learns of them and at its every
	// start. A runtime that hands out addresses by them keeps them itself: they
	// do not come again when it restarts alone. nil means that the network
	// configuration has its own ranges; the call succeeds.
	SetPodCIDR func(ctx context.Context, ranges []netip.Prefix) error

	// Checkpoints save running containers and Pods to files.
	Checkpoints *Checkpoints
	// Info adds to what verbose statuses say.
	Info Info

	// Recover is called once, before the first call of a client, with every
	// sandbox and container on record. It corrects them to what is true now:
	// containers that ended meanwhile get their Exit, sandboxes that are gone
	// are marked not Ready. After a loss of power those that were changed last
	// may be missing: what an author keeps elsewhere for sandboxes and containers
	// that are not among these is nobody's. nil means that all records are
	// believed.
	Recover func(context.Context, []*Sandbox, []*Container) error
	// Watch runs for the life of the server and reports the end of every
	// started container, once and soon. A report about a container that Recover
	// already corrected is ignored. nil means that only StopContainer ends
	// containers.
	Watch func(ctx context.Context, ended func(containerID string, e Exit)) error

	// Limits, unless nil, is called once, before Recover, with the way to change
	// limits that no client asks to change: package cri/nri does for its plugins.
	Limits func(ChangeLimits)

	// Images serves the image service. It is required for a kubelet.
	Images *Images
}

// Sandbox is a Pod sandbox as the SDK records it. The author may change IPs,
// Ready and State during RunSandbox, StopSandbox and Recover, and nothing else
// ever: it is put back.
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
// ImageRef, Exit, LogPath, User and StopSignal during CreateContainer,
// StartContainer and Recover, during CreateContainer and Restore also Config, to a
// copy with the limits that the container really gets, and during Recover also
// StartedAt, to zero where a start was meant and never begun. Nothing else ever: it is
// put back.
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
	// User is who the first process runs as, nil when the author does not say.
	User *runtimeapi.LinuxContainerUser
	// StopSignal is what StopContainer sends first. It is that of Config until
	// the author knows better, from the image.
	StopSignal runtimeapi.Signal
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

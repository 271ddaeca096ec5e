// Package wire is the protocol between the keeper and its clients, and what both sides
// need to speak it over a unix socket. It links neither grpc nor k8s.io.
package wire

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// SocketName is the keeper's socket in its run directory.
const SocketName = "keeper.sock"

// LockName is the file in the run directory that is locked while an anchor or its keeper
// lives.
const LockName = "keeper.lock"

// NoRole begins the error text of every keeper program of every version that is run
// without arguments. keeper.Check recognizes a keeper by it.
const NoRole = "the keeper is started by the runtime server"

// Protocol is the version of the protocol that this package implements. A keeper answers
// every version up to its own, and a request states the version that it needs (Since): so
// both sides use what both know.
//
//	1  everything but the following
//	2  replace; Hello.Anchor, Exit.Lost; a keeper below an anchor
const Protocol = 2

// Since returns the version that introduced the operation.
func Since(op string) int {
	if op == OpReplace {
		return 2
	}
	return 1
}

// A connection carries one call, or several of the operations that InTurn names, one
// after the other. A call is a request, one or more replies and, for attach, frames after
// the first reply. Requests and replies are JSON after a big-endian 32-bit length;
// descriptors are sent with the length. Closing the connection cancels exec, wait, watch
// and attach, and nothing else.
const (
	OpHello    = "hello"
	OpStart    = "start"
	OpRuntime  = "runtime"
	OpSignal   = "signal"
	OpWait     = "wait"
	OpList     = "list"
	OpWatch    = "watch"
	OpAck      = "ack"
	OpRemove   = "remove"
	OpReopen   = "reopen"
	OpExec     = "exec"
	OpAttach   = "attach"
	OpShutdown = "shutdown"
	OpReplace  = "replace"
)

// InTurn reports whether another request may follow on the connection once the operation
// was answered without an error. Earlier keepers hang up after each call, which a client
// notices.
func InTurn(op string) bool {
	switch op {
	case OpHello, OpStart, OpSignal, OpList, OpAck, OpRemove, OpReopen:
		return true
	}
	return false
}

// MaxAwait bounds Request.Await: meanwhile, nothing checks whether the client is still
// there.
const MaxAwait = time.Second

// maxMessage bounds what one side can make the other allocate.
const maxMessage = 8 << 20

// Request begins a call. Besides Version and Op, it has the fields that the operation
// needs.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	ID      string `json:"id,omitempty"`
	Signal  int    `json:"signal,omitempty"`
	// Await is how many milliseconds, at most MaxAwait, signal waits for the container's
	// end after its reply. A second reply then has the exit, or none. Earlier keepers
	// hang up instead.
	Await   int            `json:"await,omitempty"`
	Start   *StartRequest  `json:"start,omitempty"`
	Command *Command       `json:"command,omitempty"`
	Attach  *AttachRequest `json:"attach,omitempty"`
	Program string         `json:"program,omitempty"` // of the keeper that replaces this one
}

// Check returns fault.Invalid for a request that lacks what its operation needs, or uses
// a name reserved for the keeper.
func (r *Request) Check() error {
	switch r.Op {
	case OpStart:
		if r.Start == nil {
			return fault.Invalid.Errorf("start without a request")
		}
		if r.ID == "" || strings.HasPrefix(r.ID, " ") {
			return fault.Invalid.Errorf("%q is no container's id", r.ID)
		}
		return r.Start.Command.checkStarts()
	case OpExec:
		return r.Command.checkStarts()
	case OpRuntime:
		return r.Command.check()
	case OpReplace:
		return (&Command{Args: []string{r.Program}}).check()
	}
	return nil
}

func (c *Command) check() error {
	if c == nil || len(c.Args) == 0 || c.Args[0] == "" {
		return fault.Invalid.Errorf("there is no program to run")
	}
	return nil
}

// checkStarts checks a command that starts a process.
func (c *Command) checkStarts() error {
	if err := c.check(); err != nil {
		return err
	}
	if !filepath.IsLocal(c.PIDFile) || c.Console != "" && !filepath.IsLocal(c.Console) {
		return fault.Invalid.Errorf("the pid file %q and the console %q are names in the command's directory", c.PIDFile, c.Console)
	}
	return nil
}

// Reply answers a call; if Kind is set, with an error.
type Reply struct {
	Kind   fault.Kind `json:"kind,omitempty"` // of an error
	Error  string     `json:"error,omitempty"`
	Hello  *Hello     `json:"hello,omitempty"`
	Status *Status    `json:"status,omitempty"`
	List   []Status   `json:"list,omitempty"`
	Exit   *Exit      `json:"exit,omitempty"`
}

// Hello identifies the keeper that answers.
type Hello struct {
	Protocol int `json:"protocol"`
	PID      int `json:"pid"`
	Anchor   int `json:"anchor,omitempty"` // the anchor's process id
}

// Command is an invocation of the OCI runtime.
type Command struct {
	Args []string `json:"args"` // Args[0] is the program's absolute path
	Dir  string   `json:"dir"`  // its working directory
	// PIDFile is the file, relative to Dir, into which the runtime writes the
	// process id of what it started.
	PIDFile string `json:"pidFile,omitempty"`
	// Console is the socket, relative to Dir, to which the runtime sends the
	// terminal of what it started. Empty means no terminal.
	Console string `json:"console,omitempty"`
	// OOMScoreAdj is set for the runtime and for the process that it starts; nil means
	// the keeper's. crun sets that of a container unless it is zero, but not that of an
	// exec.
	OOMScoreAdj *int `json:"oomScoreAdj,omitempty"`
	// View is the mount namespace that the runtime runs in; nil means the keeper's. Keepers
	// of the first versions ignore it, and so does one that the kernel refuses it.
	View *View `json:"view,omitempty"`
}

// View is a mount namespace with the keeper's mounts, but without unbindable ones
// (mount_namespaces(7)) and what is below them, except for those that it names.
type View struct {
	// Mounts are mount points, which the view has with everything below them.
	Mounts []string `json:"mounts"`
	// Above is the mount point above them that can be bound. It is private in the view, so
	// that they appear there only.
	Above string `json:"above"`
	// Paths are to lead to the same files in the view as outside. Where they do not, the
	// runtime runs among all mounts: below an unbindable mount of somebody else's, the view
	// shows what that hides.
	Paths []string `json:"paths,omitempty"`
}

// StartRequest says how a container is started.
type StartRequest struct {
	Command Command `json:"command"`
	// Log is the container's log file; if it is empty, only attached clients see the
	// output. LogDir is the directory above it below which no symbolic link is followed;
	// servers of the first versions did not name one.
	Log       string `json:"log,omitempty"`
	LogDir    string `json:"logDir,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`     // keep its standard input open
	StdinOnce bool   `json:"stdinOnce,omitempty"` // close it after the first attach
	// OOMFile is read when the container ends: its line "oom_kill N" shows whether the
	// OOM killer killed a process.
	OOMFile string `json:"oomFile,omitempty"`
}

// Status is what the keeper knows of a container that it started.
type Status struct {
	ID   string `json:"id"`
	PID  int    `json:"pid,omitempty"` // 0 once ended
	Exit *Exit  `json:"exit,omitempty"`
	// Starting says that the container has neither yet: its start hangs. Wait shows its
	// outcome.
	Starting bool `json:"starting,omitempty"`
}

// Exit describes how a process ended.
type Exit struct {
	ID   string    `json:"id"`
	Code int32     `json:"code"` // 128+n for death by signal n
	At   time.Time `json:"at"`
	OOM  bool      `json:"oom,omitempty"`
	Lost bool      `json:"lost,omitempty"` // the code is unknown
}

// AttachRequest says what the client will do besides reading.
type AttachRequest struct {
	Stdin bool `json:"stdin,omitempty"`
}

// A frame of an attached connection is its kind, the payload's length and the
// payload.
const (
	FrameStdin      = 'i' // client to keeper
	FrameStdinClose = 'c' // client to keeper, no payload
	FrameResize     = 'r' // client to keeper: columns and rows, 16 bits each
	FrameStdout     = 'o' // keeper to client
	FrameStderr     = 'e' // keeper to client
	FrameFault      = 'f' // keeper to client, the last one: why it stops early
	FrameEnd        = 'x' // keeper to client, the last one: the output has ended
	MaxFrame        = 64 << 10
)

// Failure turns an error into a reply.
func Failure(err error) Reply { return Reply{Kind: kindOf(err), Error: err.Error()} }

// kindOf returns the kind under which an error is sent, because the server that receives
// it cannot see that the disk was the reason.
func kindOf(err error) fault.Kind {
	var has fault.Kind
	switch {
	case errors.As(err, &has):
		return fault.Of(err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Exhausted
	case errors.Is(err, syscall.EROFS):
		return fault.FailedPrecondition
	}
	return fault.Internal
}

// Err returns the error that Failure was given, or nil.
func (r Reply) Err() error {
	if r.Kind == "" {
		return nil
	}
	return r.Kind.Wrap(errors.New(r.Error))
}

package cni

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// Result is the result of ADD in the newest version of the specification. The SDK
// converts it to the version that the runtime asked for.
type Result = types100.Result

// Interface is an interface in a Result.
type Interface = types100.Interface

// The verbs, as CNI_COMMAND names them.
const (
	CmdAdd     = "ADD"
	CmdDel     = "DEL"
	CmdCheck   = "CHECK"
	CmdGC      = "GC"
	CmdStatus  = "STATUS"
	CmdVersion = "VERSION"
)

// Plugin is a CNI plugin as the SDK serves it. Authors usually create one with New,
// which keeps the type of their configuration; the fields are exported so that a plugin
// can be decorated or built at run time. A nil function means that the verb needs no
// work, except that a nil Add passes prevResult through.
//
// Functions are called concurrently for different containers, and again for the same
// container after a crash at any point of an earlier call. Errors made with Errorf keep
// their code; the code of other errors follows from their kind (see CodeOf).
type Plugin struct {
	// Name is the plugin's type in configurations and the name of its binary.
	Name string

	// NewConfig returns a pointer to an empty configuration, which the SDK fills in and
	// passes as Request.Config. Nil means that the plugin has no keys of its own.
	NewConfig func() any

	// IPAM marks an IPAM plugin. It receives the whole configuration of the plugin that
	// calls it, so unknown top-level keys are not errors, and it never enters
	// CNI_NETNS, which is therefore not verified.
	IPAM bool

	// Adjusts says that the plugin works on an existing interface even if no prevResult
	// lists it, as loopback does on "lo". For all other plugins the SDK refuses an ADD
	// if CNI_IFNAME exists, before it calls Add and so before any delegate: the
	// rollback of such an ADD would release the addresses of the existing attachment.
	Adjusts bool

	// Add creates or adjusts the interface (CNI 1.1.0, ADD). If it fails, the functions
	// registered with Request.Undo undo what it has done. A nil result means prevResult
	// unchanged.
	Add func(ctx context.Context, r *Request) (*Result, error)

	// Del undoes Add (CNI 1.1.0, DEL). It succeeds if there is nothing to undo, also
	// without a network namespace or prevResult, and continues past errors.
	Del func(ctx context.Context, r *Request) error

	// Check reports what is missing from an attachment (CNI 1.1.0, CHECK).
	// Request.PrevResult is the final result of the chain's ADD and never nil.
	Check func(ctx context.Context, r *Request) error

	// GC removes what belongs to attachments that are not in Request.Valid, and
	// continues past errors (CNI 1.1.0, GC).
	GC func(ctx context.Context, r *Request) error

	// Status returns an error when an ADD cannot succeed now (CNI 1.1.0, STATUS).
	Status func(ctx context.Context, r *Request) error

	// Repair restores what Check would find missing, without an ADD or DEL and without
	// changing addresses. A runtime in the same process calls it with the documents of
	// a CHECK, see Caller.Repair; Request.Command is CHECK.
	Repair func(ctx context.Context, r *Request) error

	// State returns the directory in which the SDK keeps a record of every attachment.
	// The record is written before Add is called, completed with its result, and
	// removed after Del. A nil State, or an empty directory, means that the plugin
	// needs no records because it can find by name whatever it creates. With records
	//   - Request.Save and Load keep the plugin's own data;
	//   - DEL and its delegates get the result, runtimeConfig, args and CNI_ARGS of the
	//     ADD if the runtime omits them, and no namespace if CNI_NETNS no longer leads to
	//     the one of the ADD;
	//   - the SDK runs DEL and CHECK of the delegates that were added through
	//     Request.DelegateWith, each with the interface name that it had (Delegate.As);
	//   - ADD of a recorded attachment is refused, unless the machine has rebooted since:
	//     then its DEL runs first;
	//   - GC runs the DEL of every recorded attachment that is not valid;
	//   - STATUS fails while the directory is not writable.
	State func(config any) (dir string)

	// Timeout bounds one call of the plugin, delegates included: when it expires, the
	// call's context ends. Zero means DefaultTimeout, one minute.
	Timeout time.Duration
}

// Handlers is what an author writes: the functions of a Plugin, with the configuration
// as a value of type C. See Plugin for the contract of each.
//
// The SDK fills C from the keys of the plugin's configuration. A key that is neither a
// field of C nor one that the specification defines for every plugin is refused; the
// error suggests the key that was probably meant.
//
// A field with the tag `json:"-" cni:"mac,MAC"` is set by callers at run time: by the
// capability "mac" in runtimeConfig, else by mac in args.cni, else by MAC in CNI_ARGS.
//
// A plugin that delegates to an IPAM plugin has a field of type IPAM and calls the
// delegate's ADD itself. The SDK delegates DEL, CHECK, GC and STATUS after the handler:
// DEL and GC in any case, CHECK and STATUS if the handler succeeded.
type Handlers[C any] struct {
	Add    func(ctx context.Context, r *Request, config *C) (*Result, error)
	Del    func(ctx context.Context, r *Request, config *C) error
	Check  func(ctx context.Context, r *Request, config *C) error
	GC     func(ctx context.Context, r *Request, config *C) error
	Status func(ctx context.Context, r *Request, config *C) error
	Repair func(ctx context.Context, r *Request, config *C) error
	State  func(config *C) (dir string)
}

// New returns the plugin with the given handlers.
func New[C any](name string, h Handlers[C]) *Plugin {
	p := &Plugin{
		Name:      name,
		NewConfig: func() any { return new(C) },
		Del:       erase(h.Del),
		Check:     erase(h.Check),
		GC:        erase(h.GC),
		Status:    erase(h.Status),
		Repair:    erase(h.Repair),
	}
	if h.State != nil {
		p.State = func(config any) string { return h.State(config.(*C)) }
	}
	if h.Add != nil {
		p.Add = func(ctx context.Context, r *Request) (*Result, error) {
			return h.Add(ctx, r, r.Config.(*C))
		}
	}
	return p
}

func erase[C any](typed func(context.Context, *Request, *C) error) func(context.Context, *Request) error {
	if typed == nil {
		return nil
	}
	return func(ctx context.Context, r *Request) error { return typed(ctx, r, r.Config.(*C)) }
}

// Attachment names one interface of one container in a network.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// String returns "containerID/ifname", which identifies an attachment within
// its network; neither part can hold a slash.
func (a Attachment) String() string { return a.ContainerID + "/" + a.IfName }

// HostName returns a name for a host interface of the attachment: the prefix, of at
// most five characters, and ten hexadecimal digits derived from the network, the
// container and the interface. DEL thus finds what ADD created without any record. GC,
// which is told only the valid attachments, cannot: an interface with such a name
// remains until its DEL, unless the plugin has State, with which GC calls Del.
func (a Attachment) HostName(prefix, network string) string {
	sum := sha256.Sum256([]byte(network + "/" + a.String()))
	return fmt.Sprintf("%s%x", prefix, sum[:5])
}

// Request is one call of a plugin. It must not be used after the call.
type Request struct {
	Command string
	// Attachment is the subject of ADD, DEL and CHECK; zero for GC and STATUS.
	Attachment
	// NetNS is CNI_NETNS. For ADD and CHECK it is a network namespace other than the
	// plugin's own. For DEL it may be empty, gone, or by now something else; if the SDK
	// knows that it is no longer the container's, it is empty, for delegates too.
	NetNS   string
	Args    map[string]string // CNI_ARGS
	Path    []string          // CNI_PATH
	Version string            // cniVersion of the request
	Network string            // the network's name
	// Config is the value returned by the plugin's NewConfig, filled in. For DEL and GC
	// unknown keys are ignored, so that an attachment can always be removed.
	Config any
	// PrevResult is the result so far (ADD) or the final result of the chain (CHECK,
	// DEL); nil if the runtime gave none. Handlers may modify and return it.
	PrevResult *Result
	// Valid lists the attachments that GC must keep. It is set only for GC.
	Valid []Attachment
	// Log writes to the plugin's stderr or, in process, to the caller's log for the
	// plugin (Caller.Logger). It is never nil.
	Log *slog.Logger
	// Trace is the W3C trace context given by the runtime (TRACEPARENT), or "".
	// Delegates get it too.
	Trace string

	input input
	undo  Rollback
	kept  keeping
	ns    *netns.Handle
}

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

// Result is the result of ADD in the newest version. The SDK converts it to
// the version that the runtime asked for.
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

// Plugin is a CNI plugin as the SDK serves it. Authors make one with New, which
// keeps the type of their configuration; the fields are open so that a plugin
// can be decorated or built at run time. A nil function means that there is
// nothing to do for the verb, except that a nil Add passes prevResult through.
//
// Functions are called concurrently for different containers, and for one
// container again after a crash at any point of an earlier call. Errors made
// with Errorf keep their code; of the others the kind decides (see CodeOf).
type Plugin struct {
	// Name is the plugin's type in configurations and the name of its binary.
	Name string

	// NewConfig returns a pointer to an empty configuration, which the SDK fills
	// in and puts into Request.Config. Nil means that the plugin has no keys.
	NewConfig func() any

	// IPAM says that the plugin is an IPAM plugin: it gets the whole configuration
	// of the plugin that calls it, so that keys at the top which it does not know
	// are no mistake, and it never enters CNI_NETNS, which is not verified.
	IPAM bool

	// Adjusts says that the plugin works on an interface that is there already
	// when no prevResult tells of one, as loopback does on "lo". For all others
	// the SDK refuses an ADD whose CNI_IFNAME exists, before Add is called and so
	// before a delegate is: undoing what such an ADD did would take the addresses
	// away from the attachment that is there.
	Adjusts bool

	// Add creates or adjusts the interface (CNI 1.1.0, ADD). What it has done
	// before it fails is undone by the functions given to Request.Undo. A nil
	// result stands for prevResult without changes.
	Add func(ctx context.Context, r *Request) (*Result, error)

	// Del undoes Add (CNI 1.1.0, DEL). It succeeds when there is nothing to undo,
	// also without a network namespace and without prevResult, and goes on past
	// errors.
	Del func(ctx context.Context, r *Request) error

	// Check reports what is missing of an attachment (CNI 1.1.0, CHECK).
	// Request.PrevResult is the final result of the chain's ADD and never nil.
	Check func(ctx context.Context, r *Request) error

	// GC removes what belongs to attachments that are not in Request.Valid, and
	// goes on past errors (CNI 1.1.0, GC).
	GC func(ctx context.Context, r *Request) error

	// Status returns an error when an ADD cannot succeed now (CNI 1.1.0, STATUS).
	Status func(ctx context.Context, r *Request) error

	// Repair puts back what Check would miss, without an ADD or a DEL and without
	// a change of addresses. A runtime in the same process calls it with the documents
	// of a CHECK, see Caller.Repair; Request.Command is CHECK.
	Repair func(ctx context.Context, r *Request) error

	// State returns the directory in which the SDK keeps a record of every
	// attachment: written before Add is called, completed with its result, removed
	// after Del. Nil, or an empty directory, means that the plugin needs none,
	// because what it makes can be found by its name. With records
	//   - Request.Save and Load keep data of the plugin's own;
	//   - DEL, with its delegates, gets the result, runtimeConfig, args and CNI_ARGS of
	//     its ADD where the runtime forgot them, and no namespace when CNI_NETNS leads
	//     to another one by now;
	//   - DEL and CHECK of what Request.DelegateWith has run follow by themselves, each with
	//     the interface's name that it had (Delegate.As);
	//   - ADD of an attachment that is recorded is refused, except when the machine
	//     was started anew meanwhile: then its DEL runs first;
	//   - GC runs the DEL of every recorded attachment that is not valid;
	//   - STATUS fails while the directory cannot be written to.
	State func(config any) (dir string)

	// Timeout bounds one call of the plugin, delegates included; when it is over
	// the context ends. Zero means DefaultTimeout, one minute.
	Timeout time.Duration
}

// Handlers is what an author writes: the functions of a Plugin, with the
// configuration as a value of type C. See Plugin for the contract of each.
//
// The SDK fills C from the keys of the plugin's configuration: a key that is
// neither a field of C nor one that the specification gives to every plugin is
// refused, with the name that was probably meant.
//
// A field with the tag `json:"-" cni:"mac,MAC"` is what callers set at run time:
// the capability "mac" in runtimeConfig, else mac in args.cni, else MAC in
// CNI_ARGS.
//
// A plugin that delegates to an IPAM plugin has a field of type IPAM, and calls
// ADD of the delegate itself. DEL, CHECK, GC and STATUS are delegated by the SDK,
// behind the handler: DEL and GC whatever came of it, CHECK and STATUS when it
// found nothing wrong.
type Handlers[C any] struct {
	Add    func(ctx context.Context, r *Request, config *C) (*Result, error)
	Del    func(ctx context.Context, r *Request, config *C) error
	Check  func(ctx context.Context, r *Request, config *C) error
	GC     func(ctx context.Context, r *Request, config *C) error
	Status func(ctx context.Context, r *Request, config *C) error
	Repair func(ctx context.Context, r *Request, config *C) error
	State  func(config *C) (dir string)
}

// New returns the plugin that the handlers make.
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

// HostName returns a name for an interface on the host that belongs to the
// attachment: the prefix, of at most five characters, and ten that follow from
// the network, the container and the interface. So DEL finds what ADD made without
// anybody having written it down. GC is told only who stays: what such a name has
// outlives its claim until the DEL, unless State has GC call Del.
func (a Attachment) HostName(prefix, network string) string {
	sum := sha256.Sum256([]byte(network + "/" + a.String()))
	return fmt.Sprintf("%s%x", prefix, sum[:5])
}

// Request is one call of a plugin. It belongs to the call and is not used
// after it.
type Request struct {
	Command string
	// Attachment is what ADD, DEL and CHECK are about; zero for GC and STATUS.
	Attachment
	// NetNS is CNI_NETNS. For ADD and CHECK it is a network namespace and not the
	// caller's own. For DEL it may be empty, gone or something else by now; what
	// the SDK knows to be no longer the container's it makes empty, for delegates
	// too.
	NetNS   string
	Args    map[string]string // CNI_ARGS
	Path    []string          // CNI_PATH
	Version string            // cniVersion of the request
	Network string            // the network's name
	// Config is what the plugin's NewConfig returned, filled in. For DEL and GC
	// unknown keys are ignored, so that an attachment can always be removed.
	Config any
	// PrevResult is the result so far (ADD), or the chain's final result (CHECK,
	// DEL); nil when the runtime gave none. Handlers may change and return it.
	PrevResult *Result
	// Valid is every attachment that GC must keep. It is set for GC alone.
	Valid []Attachment
	// Log writes to the plugin's stderr, or to the log that the process which calls
	// the plugin has for it (Caller.Logger). It is never nil.
	Log *slog.Logger
	// Trace is the W3C trace context that the runtime gave (TRACEPARENT), or "".
	// Delegates get it too.
	Trace string

	input input
	undo  Rollback
	kept  keeping
	ns    *netns.Handle
}

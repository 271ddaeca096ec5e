// Package runtime is the runtime side of CNI (specification 1.1.0): it loads a
// network configuration, runs its chain of plugins for containers and remembers
// what it did.
//
// A Network is one configuration directory and one state directory. Plugins
// that are built in are called in process, others are executed; both get the
// same environment and documents. An intent is journalled before the first
// plugin of an ADD runs and the result is stored before Attach returns, so that
// after a kill -9 at any instruction every ADD that was begun gets its DEL: at
// the next Open, or when Detach is called. DEL runs with the configuration and
// the parameters that ADD had, whatever the directory says by then.
//
// Operations of one container exclude each other, those of different containers
// run in parallel, and GC excludes all. One process owns a state directory.
//
// It is not a plugin (see package cni) and does not make network namespaces.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
)

// Config says where a Network finds things. ConfDir and StateDir are required.
type Config struct {
	// ConfDir holds network configurations (*.conflist, *.conf, *.json); the first
	// valid one by name is used. It is read anew for every ADD and STATUS, so that
	// a configuration may come and change while the node runs.
	ConfDir string
	// BinDirs are searched in order for plugins that are not built in, and given
	// to plugins as CNI_PATH.
	BinDirs []string
	// StateDir keeps the journal and the results. It is made if need be.
	StateDir string
	// Builtin are plugins, by type, that are called in process. They come before
	// those in BinDirs, also as delegates of each other.
	Builtin map[string]*cni.Plugin
	// PluginTimeout bounds one call of one plugin. Zero means one minute.
	PluginTimeout time.Duration
	// Observe is told of every call of a plugin. Nil means nobody.
	Observe call.Observer
	// Logger gets what has no caller to be returned to. Nil discards.
	Logger *slog.Logger
}

const defaultPluginTimeout = time.Minute

// Attachment is one interface of one container, as its runtime asks for it.
// ContainerID and IfName identify it.
type Attachment struct {
	ContainerID  string        `json:"containerID"`
	NetNS        string        `json:"netns"` // path of the network namespace
	IfName       string        `json:"ifname"`
	Pod          call.Pod      `json:"pod"`
	PortMappings []PortMapping `json:"portMappings,omitempty"`
}

// PortMapping is the portMappings capability of the CNI conventions.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`         // "tcp" or "udp"
	HostIP        string `json:"hostIP,omitempty"` // "" means every address
}

func (a Attachment) key() cni.Attachment {
	return cni.Attachment{ContainerID: a.ContainerID, IfName: a.IfName}
}

// Network is an open network. It is safe for concurrent use.
type Network struct {
	config     Config
	records    records
	journal    *journal.Journal
	containers locks
	gc         sync.RWMutex // GC writes, all else reads

	mu      sync.Mutex
	intents map[cni.Attachment]intent // begun and not confirmed
}

type intent struct {
	id     journal.ID
	record *record
}

// kindAdd is the journal's kind of intent for an ADD.
const kindAdd = "cni-add"

// Open opens the network and undoes what an earlier process left half done. A
// DEL that fails is logged and stays due: Detach and the next Open try again.
// A state directory that another process has open is fault.AlreadyExists.
//
// The configuration need not be there yet; see Status.
func Open(c Config) (*Network, error) {
	if c.ConfDir == "" || c.StateDir == "" {
		return nil, fault.Invalid.Errorf("opening network: ConfDir and StateDir are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.PluginTimeout == 0 {
		c.PluginTimeout = defaultPluginTimeout
	}
	n := &Network{config: c, records: records{filepath.Join(c.StateDir, "attachments")}, intents: map[cni.Attachment]intent{}}
	if err := os.MkdirAll(n.records.dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening network: %w", err)
	}
	j, err := journal.Open(filepath.Join(c.StateDir, "journal"))
	if err != nil {
		return nil, fmt.Errorf("opening network: %w", err)
	}
	n.journal = j
	if err := errors.Join(n.records.clean(), n.recover()); err != nil {
		return nil, errors.Join(fmt.Errorf("opening network: %w", err), j.Close())
	}
	n.logProblems()
	return n, nil
}

// Close gives the state directory up. Attachments stay as they are.
func (n *Network) Close() error { return n.journal.Close() }

// recover runs the DEL of every ADD that was begun and not confirmed.
func (n *Network) recover() error {
	for _, e := range n.journal.Pending() {
		if e.Kind != kindAdd {
			return fault.FailedPrecondition.Errorf("the journal has an intent of the unknown kind %q: use the version that wrote it", e.Kind)
		}
		r, err := decodeRecord(e.Data, "journal")
		if err != nil {
			return err
		}
		n.intents[r.Attachment.key()] = intent{e.ID, r}
	}
	for key, i := range n.intents {
		ctx := call.WithPod(context.Background(), i.record.Attachment.Pod)
		if err := n.Detach(ctx, i.record.Attachment); err != nil {
			n.config.Logger.Error("undoing an interrupted attachment", "container", key.ContainerID, "interface", key.IfName, "err", err)
		}
	}
	return nil
}

func (n *Network) logProblems() {
	_, problems, _ := loadDir(n.config.ConfDir)
	for _, p := range problems {
		n.config.Logger.Warn("ignoring a network configuration", "err", p)
	}
}

// Attach adds the container to the network: ADD of every plugin in order. When
// it fails, DEL of every plugin has been run, and the runtime need not call
// Detach, though it may. An attachment that exists, or whose DEL is still due,
// is fault.AlreadyExists; no valid configuration is fault.Unavailable.
func (n *Network) Attach(ctx context.Context, a Attachment) (*cni.Result, error) {
	ctx, unlock, err := n.enter(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("attaching %q: %w", a.key(), err)
	}
	defer unlock()
	result, err := n.attach(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("attaching %q: %w", a.key(), err)
	}
	return result, nil
}

func (n *Network) attach(ctx context.Context, a Attachment) (*cni.Result, error) {
	l, _, err := loadDir(n.config.ConfDir)
	if err != nil {
		return nil, err
	}
	if known, err := n.known(a.key()); err != nil || known != nil {
		return nil, errors.Join(fault.AlreadyExists.Errorf("it is attached already, or its removal is due"), err)
	}
	r := &record{Version: recordVersion, Attachment: a, List: l}
	if err := n.begin(r); err != nil {
		return nil, err
	}
	raw, err := n.runAdd(ctx, r)
	if err == nil {
		r.Result = raw
		err = n.records.put(r)
	}
	var result *cni.Result
	if err == nil {
		result, err = cni.DecodeResult(raw, l.Version)
	}
	if err != nil {
		return nil, errors.Join(err, n.undo(ctx, r))
	}
	return result, n.confirm(a.key())
}

// undo runs the DEL of a failed ADD. The specification demands one, and the
// caller's context may have ended.
func (n *Network) undo(ctx context.Context, r *record) error {
	if err := n.detach(context.WithoutCancel(ctx), r); err != nil {
		return fmt.Errorf("undoing it: %w", err)
	}
	return nil
}

// Detach removes the container from the network: DEL of every plugin in reverse
// order, each although others failed. It succeeds at once when nothing is
// recorded of the attachment: then no ADD was begun, or its DEL is done. NetNS
// may be empty or gone. When it fails it can be called again.
func (n *Network) Detach(ctx context.Context, a Attachment) error {
	ctx, unlock, err := n.enter(ctx, a)
	if err != nil {
		return fmt.Errorf("detaching %q: %w", a.key(), err)
	}
	defer unlock()
	r, err := n.known(a.key())
	if errors.Is(err, fault.Invalid) {
		// Better a DEL with the configuration of today than none.
		n.config.Logger.Error("detaching without the record of the attachment", "container", a.ContainerID, "interface", a.IfName, "err", err)
		r = &record{Version: recordVersion, Attachment: a}
		r.List, _, err = loadDir(n.config.ConfDir)
	}
	if err == nil && r != nil {
		err = n.detach(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("detaching %q: %w", a.key(), err)
	}
	return nil
}

func (n *Network) detach(ctx context.Context, r *record) error {
	if err := n.runDel(ctx, r); err != nil {
		return err
	}
	if err := n.records.remove(r.Attachment.key()); err != nil {
		return err
	}
	return n.confirm(r.Attachment.key())
}

// enter takes the container's lock and puts the Pod into the context.
func (n *Network) enter(ctx context.Context, a Attachment) (context.Context, func(), error) {
	if !namePattern.MatchString(a.ContainerID) || a.IfName == "" || filepath.Base(a.IfName) != a.IfName {
		return ctx, nil, fault.Invalid.Errorf("container id %q or interface name %q is not valid", a.ContainerID, a.IfName)
	}
	if !a.Pod.IsZero() {
		ctx = call.WithPod(ctx, a.Pod)
	}
	unlock, err := n.containers.lock(ctx, a.ContainerID)
	if err != nil {
		return ctx, nil, err
	}
	n.gc.RLock()
	return ctx, func() { n.gc.RUnlock(); unlock() }, nil
}

// known returns what is recorded of the attachment, or nil.
func (n *Network) known(key cni.Attachment) (*record, error) {
	r, err := n.records.get(key)
	if err == nil {
		return r, nil
	}
	if !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.intents[key].record, nil
}

// begin makes the intent durable.
func (n *Network) begin(r *record) error {
	id, err := n.journal.Begin(kindAdd, r)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intents[r.Attachment.key()] = intent{id, r}
	return nil
}

// confirm ends the intent: the attachment is recorded, or gone.
func (n *Network) confirm(key cni.Attachment) error {
	n.mu.Lock()
	i, ok := n.intents[key]
	delete(n.intents, key)
	n.mu.Unlock()
	if !ok {
		return nil
	}
	return n.journal.Done(i.id)
}

// Result returns the result of an attachment that exists, also after a restart,
// or fault.NotFound.
func (n *Network) Result(a Attachment) (*cni.Result, error) {
	r, err := n.records.get(a.key())
	if err != nil {
		return nil, err
	}
	return cni.DecodeResult(r.Result, r.List.Version)
}

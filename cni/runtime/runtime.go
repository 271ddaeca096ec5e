// Package runtime is the runtime side of CNI (specification 1.1.0): it loads a network
// configuration, runs its chain of plugins for containers, and records what it did.
//
// A Network is one configuration directory and one state directory. Built-in plugins
// are called in process, others are executed; both get the same environment and
// documents. An intent is journalled before the first plugin of an ADD runs, and the
// result is stored before Attach returns. After a kill -9 at any instruction, every ADD
// that was started therefore gets its DEL: at the next Open if no result was stored,
// otherwise when Detach is called. The same holds after a power failure, which just
// after Attach may lose the result; the next Open then runs the DEL (settle.go). DEL
// runs with the configuration and parameters of its ADD, whatever the directory says by
// then, and with the last result that a plugin returned.
//
// # Locks
//
// Operations of one container exclude each other, those of different containers run in
// parallel, and GC excludes all. Only one process can have a Network open on a state
// directory: its journal is locked, and a second Open is refused. The other two locks
// are for anything else that works on the same attachments: a program that inspects or
// repairs one, and a process that takes the state directory over while calls of its
// predecessor still run.
//
//	<StateDir>/gc.lock           flock(2): shared by every operation, exclusive for GC
//	<StateDir>/containers.lock   fcntl(2), F_OFD_SETLK: exclusive for the operations
//	                             of one container, on the byte that
//	                             internal/flock.AcquireName has for its id
//
// Whoever takes both takes the container's lock first.
//
// # Error codes of plugins
//
// Code 11 (try again later) is retried a few times (ADD after a DEL) and then
// returned as fault.Unavailable. Code 3 (unknown container) from the first plugin of an
// ADD makes a DEL unnecessary; from DEL it counts as success. If a plugin of the chain
// is in none of the directories, the attachment is refused before the first plugin runs
// and gets no DEL, and neither does one whose first plugin cannot be started; if a
// plugin disappears or can no longer be started later, the DEL of the chain stays due
// until it can.
//
// The package is not a plugin (see package cni) and does not create network namespaces.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/journal"
	"github.com/nodekit-project/nodekit/internal/spelling"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// Config configures a Network. ConfDir and StateDir are required.
type Config struct {
	// ConfDir holds network configurations (*.conflist, *.conf, *.json). The first
	// valid one by name is used; errors in the others are logged. It is read for every
	// ADD and STATUS, so a configuration may appear or change while the node runs.
	ConfDir string
	// BinDirs are searched in order for plugins that are not built in, and passed to
	// plugins as CNI_PATH.
	BinDirs []string
	// StateDir holds the journal and the results. It is created if it does not exist.
	StateDir string
	// Builtin maps types to plugins that are called in process. They take precedence
	// over those in BinDirs, also as delegates of each other.
	Builtin map[string]*cni.Plugin
	// PluginTimeout bounds one call of one plugin, unless the Timeout of a built-in
	// plugin is shorter. Zero means one minute. A plugin that does not end in time has
	// cni.Grace for its rollback. Then an executed plugin is killed and a built-in one
	// abandoned: while it still runs, the same attachment gets no call of the plugin
	// but DEL; others fail with fault.Unavailable.
	PluginTimeout time.Duration
	// Timeouts overrides PluginTimeout by plugin type. A type that the network does not
	// have is logged, because it may be misspelled.
	Timeouts map[string]time.Duration
	// Observe is notified of plugin calls. Nil means no observer.
	Observe *call.Observer
	// Logger receives what cannot be returned to a caller: the logs of built-in
	// plugins, and what executed ones write to stderr, up to a hundred lines per call,
	// with the plugin, the command and the attachment. Nil discards it.
	Logger *slog.Logger
	// OnStderr receives those stderr lines instead of Logger, unchanged. For the lines
	// of a delegate, plugin is the plugin that called it. It is called concurrently and
	// must return quickly.
	OnStderr func(plugin, line string)
}

// Attachment is one interface of one container, as requested by its runtime.
// ContainerID and IfName identify it.
type Attachment struct {
	ContainerID string   `json:"containerID"`
	NetNS       string   `json:"netns"` // path of the network namespace
	IfName      string   `json:"ifname"`
	Pod         call.Pod `json:"pod"`
	// Args are the CNI_ARGS given to every plugin. Empty means the arguments that
	// Kubernetes runtimes pass, derived from Pod; none if Pod is zero.
	Args         [][2]string   `json:"args,omitempty"`
	PortMappings []PortMapping `json:"portMappings,omitempty"`
	// CapabilityArgs maps capabilities to their arguments, under the names of the CNI
	// conventions ("mac", "ips", "ipRanges", "bandwidth", "dns", "aliases", "deviceID",
	// "cgroupPath", "infinibandGUID") or any other agreed name. A plugin gets those
	// that its configuration declares, byte for byte except for white space. Port
	// mappings go here or into PortMappings, not both.
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs,omitempty"`
}

// PortMapping is the portMappings capability of the CNI conventions.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`         // "tcp", "udp" or "sctp"
	HostIP        string `json:"hostIP,omitempty"` // "" means every address
}

func (a Attachment) key() cni.Attachment {
	return cni.Attachment{ContainerID: a.ContainerID, IfName: a.IfName}
}

// Network is an open network. It is safe for concurrent use.
type Network struct {
	config  Config
	records records
	journal *journal.Journal
	guard   *guard
	status  status
	strays  strays
	settler settler

	mu      sync.Mutex
	intents map[cni.Attachment]intent // begun and not ended

	ignored atomic.Pointer[string] // what was last logged about ignored configurations

	// owed is the valid attachments of a collection that found no configuration, nil if
	// there was none; see makeUp.
	owed atomic.Pointer[[]cni.Attachment]
}

type intent struct {
	id     journal.ID
	record *record
}

// kindAdd is the journal's kind of intent for an ADD.
const kindAdd = "cni-add"

// Open opens the network and undoes what an earlier process left unfinished, for a
// minute at most. A DEL that fails, or does not end in that time, is logged and stays
// due: Detach and the next Open try again. If another process has the state directory
// open, the error is fault.AlreadyExists.
//
// The configuration need not exist yet; see Status.
func Open(c Config) (*Network, error) {
	if c.ConfDir == "" || c.StateDir == "" {
		return nil, fault.Invalid.Errorf("opening network: ConfDir and StateDir are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.PluginTimeout == 0 {
		c.PluginTimeout = cni.DefaultTimeout
	}
	n := &Network{config: c, records: recordsIn(c.StateDir), intents: map[cni.Attachment]intent{}}
	if err := errors.Join(topdir.Make(c.StateDir, 0o700), os.MkdirAll(n.records.dir, 0o700)); err != nil {
		return nil, fmt.Errorf("opening network: %w", err)
	}
	n.guard = newGuard(c.StateDir)
	j, err := openJournal(filepath.Join(c.StateDir, "journal"), c.Logger)
	if err != nil {
		return nil, fmt.Errorf("opening network: %w", err)
	}
	n.journal = j
	if err := errors.Join(n.records.clean(), n.recover(recoverWithin)); err != nil {
		return nil, errors.Join(fmt.Errorf("opening network: %w", err), n.Close())
	}
	l, problems, _ := loadDir(c.ConfDir)
	n.tell(l, problems)
	return n, nil
}

// openJournal opens the journal. A damaged one is put aside: what interrupted ADDs
// left, if there were any, is then freed only by GC, which is better than no network
// for all others.
func openJournal(path string, log *slog.Logger) (*journal.Journal, error) {
	j, err := journal.Open(path)
	if !errors.Is(err, fault.Invalid) {
		return j, err
	}
	log.Error("the journal of ADDs is damaged and is begun anew: what was interrupted is left to GC", "err", err, "put aside", path+".damaged")
	if err := journal.PutAside(path); err != nil {
		return nil, err
	}
	return journal.Open(path)
}

// Close releases the state directory, after everything recorded has reached the disk.
// Attachments stay as they are. No other call may run during Close or follow it.
func (n *Network) Close() error {
	n.status.close()
	n.settler.idle.Wait()
	return n.journal.Close()
}

// recover runs the DEL of every ADD that was begun and has not succeeded.
func (n *Network) recover(within time.Duration) error {
	for _, e := range n.journal.Pending() {
		if e.Kind != kindAdd {
			return fault.FailedPrecondition.Errorf("the journal has an intent of the unknown kind %q: use the version that wrote it", e.Kind)
		}
		r, err := decodeRecord(e.Data, "journal")
		if err != nil {
			return err
		}
		r.Result = n.records.progress(r.Attachment.key())
		n.intents[r.Attachment.key()] = intent{e.ID, r}
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var undoing errgroup.Group
	undoing.SetLimit(recoverAtOnce)
	for key, i := range maps.Clone(n.intents) {
		undoing.Go(func() error {
			attached, err := n.resume(key, i)
			if err == nil && !attached {
				err = n.Detach(ctx, i.record.Attachment)
			}
			if err != nil {
				n.config.Logger.Error("undoing an interrupted attachment", "container", key.ContainerID, "interface", key.IfName, "err", err)
			}
			return nil
		})
	}
	return undoing.Wait()
}

const (
	// recoverWithin bounds the undoing of all that was interrupted, which a node's start
	// waits for: a plugin may hang until its daemon runs, which is a Pod of that node. What
	// does not end by then stays due.
	recoverWithin = time.Minute
	// recoverAtOnce is how many are undone at a time: each may be a process of some 30 MB.
	recoverAtOnce = 16
)

// load reads the network's configuration. A file before it that became invalid makes
// it another network than was meant, so what is passed over is told.
func (n *Network) load() (*list, error) {
	l, problems, err := loadDir(n.config.ConfDir)
	if err == nil { // otherwise err contains them
		n.tell(l, problems)
	}
	return l, err
}

// tell logs the problems and the unused timeouts once per change, because it is
// called all the time. l is nil if there is no list.
func (n *Network) tell(l *list, problems []error) {
	var idle, kinds []string
	if l != nil {
		kinds = l.kinds()
		idle = slices.DeleteFunc(slices.Sorted(maps.Keys(n.config.Timeouts)), func(kind string) bool { return slices.Contains(kinds, kind) })
	}
	text := fmt.Sprint(problems, idle)
	if last := n.ignored.Swap(&text); last != nil && *last == text {
		return
	}
	for _, p := range problems {
		n.config.Logger.Warn("ignoring a network configuration", "err", p)
	}
	for _, kind := range idle {
		n.config.Logger.Warn("a timeout is for a plugin that is not in the network"+spelling.Meant(kind, kinds), "type", kind, "network", l.Name, "plugins", kinds)
	}
}

// Package node is the reference node: the kubelet wired to a CRI runtime, a Pod
// network, a CSI driver and a device plugin, each replaceable. It is the only place
// where the plugin families meet; they do not know each other.
//
// Every part is called through its interface's own protocol, even if it runs in this
// process: gRPC on unix sockets below Run and Root, and CNI's environment and JSON
// documents.
//
// Any number of nodes can run on one machine, and several in one process, if no two
// share a root or a run directory.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	criclient "github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/hostcheck"
	"github.com/nodekit-project/nodekit/kubelet"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
)

// Node is a started node. Its methods are safe for concurrent use.
type Node struct {
	cfg     Config
	api     *kubernetes
	kubelet *kubelet.Kubelet
	runtime *Runtime // nil with an external one
	parts   *parts
	stop    context.CancelFunc // ends every part

	atStop    []func() error                // what Stop releases
	atDestroy []func(context.Context) error // what Destroy removes instead

	fresh   bool          // no node was at the root before
	stopped chan struct{} // closed when every part has ended
	failure error         // why, valid after stopped
	end     sync.Once
}

// Start starts a node and returns when Pods can run on it. The node lives until Stop,
// Destroy or the failure of a part (see Done); ctx bounds only the start. Start takes
// over the Pods that an earlier node at the same root has left, whether it was stopped
// or crashed: their containers keep running.
//
// If another node uses the root, the error is fault.AlreadyExists. If the machine lacks
// something, it is fault.FailedPrecondition, with the command that fixes it.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if err := CheckHost(&cfg); err != nil {
		return nil, err
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, stopped: make(chan struct{})}
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the node: %w", err), n.abandon())
	}
	go n.watch()
	return n, nil
}

// CheckHost returns fault.FailedPrecondition if such a node cannot work on this
// machine: the error names what is missing, one item per line, with the command that
// fixes it. Start makes the same check first.
func CheckHost(cfg *Config) error {
	var errs []error
	for _, r := range hostcheck.Missing(hostcheck.Run()) {
		if r.Name == hostcheck.OCIRuntime && (cfg.OCIRuntime != "" || cfg.RuntimeEndpoint != "") {
			continue
		}
		errs = append(errs, fault.FailedPrecondition.Errorf("%s: %s: %s", r.Name, r.Found, r.Fix))
	}
	if cfg.SystemdCgroups && cfg.RuntimeEndpoint == "" && !cgroup.Systemd() {
		errs = append(errs, fault.FailedPrecondition.Errorf("cgroup driver: systemd is not process 1 here: use cgroupfs"))
	}
	return errors.Join(errs...)
}

func (n *Node) start(ctx context.Context) error {
	before, _ := os.ReadDir(n.cfg.Root) // empty, or it does not exist yet
	n.fresh = len(before) == 0
	for _, dir := range []string{n.cfg.Root, n.cfg.Run} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	var err error
	if n.api, err = openAPI(&n.cfg); err != nil {
		return err
	}
	n.onDestroy(n.removeKubeconfig)
	k, err := kubelet.New(n.kubeletConfig())
	if err != nil {
		return err
	}
	n.kubelet = k
	if err := n.shareRoot(); err != nil {
		return err
	}
	n.onDestroy(func(context.Context) error { return removeCgroups(n.cfg.Root) })
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.parts = newParts(live)
	n.parts.run("Kubernetes API", n.api.serve)
	n.parts.run("kubelet", k.Run)
	if err := n.startParts(ctx); err != nil {
		return err
	}
	return n.ready(ctx)
}

// How long a runtime may take to answer: an external one answers at once or never, and
// the node's own first inspects every running container, and has CNI plugins collect
// their garbage.
const (
	answerWithin = 5 * time.Second
	serveWithin  = oci.CollectWithin + 30*time.Second
)

// ready waits until the kubelet has connected to the runtime, or a part fails.
func (n *Node) ready(ctx context.Context) error {
	limit := answerWithin
	if n.runtime != nil {
		limit = serveWithin
	}
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case <-n.kubelet.Ready():
		return nil
	case <-n.parts.ctx.Done():
		return context.Cause(n.parts.ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-patience.C:
		err, hint := n.asked(), ""
		if n.runtime == nil && errors.Is(err, fault.Unavailable) {
			hint = ": start it first, or name the socket of one that runs"
		}
		return fmt.Errorf("waiting %v for the runtime at %q: %w%s", limit, n.criEndpoint(), err, hint)
	}
}

// asked calls the runtime once and returns its error.
func (n *Node) asked() error {
	c, err := criclient.Dial(n.criEndpoint(), nil)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return err
	}
	return fault.Unavailable.Errorf("it answers only now")
}

// Client returns a client of the node's Kubernetes API that uses objects by their Go
// type.
func (n *Node) Client() *client.Client { return n.kubelet.Client() }

// Done returns a channel that is closed when the node has ended, by Stop, Destroy or
// the failure of a part; Err then says which part.
func (n *Node) Done() <-chan struct{} { return n.stopped }

// Err returns nil if the node is running or was stopped, and otherwise the error of the
// part that failed.
func (n *Node) Err() error {
	select {
	case <-n.stopped:
		return n.failure
	default:
		return nil
	}
}

func (n *Node) watch() {
	n.failure = n.parts.wait()
	close(n.stopped)
}

// Stop ends the node's parts and leaves its Pods running: a later Start with the same
// root takes them over. It returns the error of the part that failed, if one did. After
// the first Stop or Destroy, both only wait.
func (n *Node) Stop() error {
	n.stop()
	<-n.stopped
	err := n.failure
	n.end.Do(func() {
		errs := []error{err}
		for _, release := range slices.Backward(n.atStop) {
			errs = append(errs, release())
		}
		err = errors.Join(append(errs, n.kubelet.Close(), n.api.close())...)
	})
	return err
}

// Destroy terminates every Pod within its grace period, and removes everything that the
// node has set up on the machine, except its root and run directories, which belong to
// the caller. If ctx ends first, or a plugin does not release a Pod within the Pods'
// longest grace period and some slack, it continues without a grace period, and returns
// what is left as an error.
func (n *Node) Destroy(ctx context.Context) error {
	drained := n.kubelet.Drain(ctx)
	n.stop()
	<-n.stopped
	err := n.failure
	n.end.Do(func() { err = errors.Join(drained, n.failure, n.takeDown(ctx), n.kubelet.Close(), n.api.close()) })
	return err
}

// takeDownWithin bounds the cleanup after all Pods have ended.
const takeDownWithin = time.Minute

func (n *Node) takeDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeDownWithin)
	defer cancel()
	var errs []error
	for _, undo := range slices.Backward(n.atDestroy) {
		errs = append(errs, undo(ctx))
	}
	return errors.Join(errs...)
}

// abandon releases what a failed start has set up; at a new root that is everything.
// Pods of an earlier node keep running.
func (n *Node) abandon() error {
	var errs []error
	if n.parts != nil {
		n.stop()
		_ = n.parts.wait() // the error of start covers it
	}
	if n.fresh {
		errs = append(errs, n.takeDown(context.Background()))
	} else {
		for _, release := range slices.Backward(n.atStop) {
			errs = append(errs, release())
		}
	}
	if n.kubelet != nil {
		errs = append(errs, n.kubelet.Close())
	}
	if n.api != nil {
		errs = append(errs, n.api.close()) // last: until then no other node can use the root
	}
	return errors.Join(errs...)
}

// onStop and onDestroy register what to release when the node stops, and what to remove
// when it is destroyed, both in reverse order.
func (n *Node) onStop(release func() error) { n.atStop = append(n.atStop, release) }

func (n *Node) onDestroy(undo func(context.Context) error) { n.atDestroy = append(n.atDestroy, undo) }

// onEnd registers what to release in either case.
func (n *Node) onEnd(release func() error) {
	n.onStop(release)
	n.onDestroy(func(context.Context) error { return release() })
}

// notices reports what a manifest file requests without effect. The kubelet logs the
// file's errors.
func (n *Node) notices(r manifest.Report) {
	for _, notice := range r.Notices {
		n.cfg.Logger.Warn(notice.String(), "file", r.File)
	}
}

func (n *Node) criEndpoint() string {
	if n.cfg.RuntimeEndpoint != "" {
		return n.cfg.RuntimeEndpoint
	}
	return "unix://" + filepath.Join(n.cfg.Run, "cri.sock")
}

func (n *Node) kubeletConfig() kubelet.Config {
	return kubelet.Config{
		Root:         n.cfg.Root,
		RunDir:       n.cfg.Run,
		ManifestDir:  n.cfg.Manifests,
		NodeName:     n.cfg.Name,
		ID:           n.api.store.ID(),
		API:          n.api.kubelet,
		CRIEndpoint:  n.criEndpoint(),
		CgroupParent: cgroupParent(n.cfg.Root),

		SystemdCgroups: n.cfg.SystemdCgroups, PodPIDs: n.cfg.PodPIDs, SingleProcessOOMKill: n.cfg.SingleProcessOOMKill,

		Observe:    n.cfg.Observe,
		OnStep:     n.cfg.OnStep,
		OnManifest: n.notices,
		Logger:     n.cfg.Logger,
	}
}

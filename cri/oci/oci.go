// Package oci is the reference CRI runtime. It implements cri.Runtime with sandboxes
// made of pinned namespaces, and containers that an OCI runtime (crun or runc) runs as
// children of the keeper.
//
// A sandbox has no process. Its network, IPC and UTS namespaces are pinned by bind
// mounts below the run directory; only a Pod that shares its PID namespace gets a first
// process for it. Creating a container mounts its root file system and writes its
// bundle; starting it is one run of the OCI runtime, which does not see the mounts of
// other sandboxes (apart.go). Teardown uses the kernel directly: kill, remove cgroups,
// unmount.
//
// Besides a list of the parent cgroups that it created, the package keeps nothing on
// disk that does not follow from the SDK's records and the keeper's journal; every
// path, cgroup and name is derived from ids. Nothing that it keeps in memory is needed
// after a crash. Every function may therefore be called again, by another process,
// after a crash at any instruction.
//
// If criu works, containers and Pods can be checkpointed and Pods restored, without
// options; cri/oci/checkpoint describes the checkpoint of a Pod.
//
// If SELinux is enabled, Pods get its labels: see cri/oci/label.
//
// The package needs root on Linux, with cgroup v1, hybrid or v2 and the cgroupfs or
// systemd driver. Anything that it does not support is refused by name; see
// cri/oci/spec. What the CRI says about the sandbox's own process (user, groups, root,
// profiles, resources) does not apply: the first process of a shared PID namespace is
// always unprivileged.
package oci

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/cri/oci/label"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/cri/oci/warm"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// Config configures a Runtime.
type Config struct {
	// StateDir holds what must survive a reboot, RunDir what must not. Both are
	// created, accessible to root only except that others may traverse RunDir. Two
	// runtimes cannot share either: the second is refused with fault.AlreadyExists.
	// RunDir is a mount point from the call of Recover on until Close or Shutdown finds no
	// sandbox.
	StateDir, RunDir string
	// CgroupParent is the cgroup, in the notation of the cgroupfs driver, of sandboxes
	// whose Pod names no parent, and of the keeper if systemd gives it no scope. Empty
	// means "/nodekit".
	CgroupParent string
	// Systemd has systemd create the cgroups of new containers, one scope each. If
	// systemd is not process 1, it is refused with fault.FailedPrecondition. Containers
	// created with the other driver keep their cgroups.
	Systemd bool
	// Runtime is an OCI runtime by name or path. One that is not installed, or does not
	// work on this machine, is refused with fault.FailedPrecondition. Empty means crun
	// if it works on this machine, else runc, whether or not that does.
	Runtime string
	// Handlers maps RuntimeClass handlers that Pods can choose to further OCI runtimes,
	// by name or path, which are checked like Runtime.
	Handlers map[string]string
	// CDIDirs are the directories of the CDI specs. Empty means /etc/cdi and
	// /var/run/cdi.
	CDIDirs []string
	// Adjust, if not nil, may modify the spec of a new container before it is used: see
	// package cri/nri. Its error fails the creation, and so does a limit in the spec
	// that this machine's cgroups do not support.
	Adjust func(context.Context, *cri.Container, *specs.Spec) error
	// BlockIOClasses is the file, in goresctrl's format, of the block I/O classes that
	// Pods may choose. Empty means none. A file that cannot be read or is invalid is
	// refused by name.
	BlockIOClasses string
	// RDTClasses are the resctrl groups that Pods may choose as their RDT class. A name
	// that no group can have is refused with fault.Invalid. A group that does not exist
	// is logged, and a container that asks for it is refused.
	RDTClasses []string
	// NoSELinux leaves Pods without SELinux labels even if SELinux is enabled; the
	// labels that they ask for are then ignored. Existing containers keep theirs.
	NoSELinux bool
	// Keeper is the path of the keeper program (cmd/keeper), statically linked. A program
	// that is none is refused with fault.FailedPrecondition, unless a keeper of RunDir
	// runs already, which then goes on.
	Keeper string
	// Network connects Pods; nil serves only Pods on the host's network.
	Network *cniruntime.Network
	// Images holds the images.
	Images *image.Store
	// Logger receives what an operator may want to know. Nil discards it.
	Logger *slog.Logger
}

// Runtime is a CRI runtime. Its methods are safe for concurrent use.
type Runtime struct {
	cfg    Config
	host   spec.Host
	locks  []*flock.Lock
	keeper *keeper.Client

	engines  map[string]engine // by handler, the default one as ""
	handlers []cri.Handler
	criu     bool
	classes  classes
	labels   *label.Machine
	rates    rates
	filters  filters
	cgroups  *warm.Lock
	nulls    nulls
	made     madeParents

	mu         sync.Mutex
	sandboxes  map[string]*cri.Sandbox
	parents    map[string]string // parent cgroups determined so far, by sandbox: see parentCgroup
	containers map[string]*cri.Container
	running    map[string]*cri.Container // containers whose exit has not been seen
	unsettled  []*cri.Container          // of these, those whose start hung at recover
	apart      bool                      // see keepApart
	views      map[string]*keeper.View   // for the starts of containers

	// starting is read-locked while a container starts, so that when the keeper is
	// replaced, the container either is in running already or is started by the next
	// keeper.
	starting sync.RWMutex
}

// New prepares the runtime: it probes the OCI runtimes and connects to the keeper of
// RunDir, or starts one if none runs. User namespaces are supported only if every user
// can traverse the directories that lead to RunDir (mode 0711).
func New(ctx context.Context, cfg Config) (*Runtime, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuring the oci runtime: %w", err)
	}
	offered, err := loadClasses(&cfg)
	if err != nil {
		return nil, fmt.Errorf("configuring the oci runtime: %w", err)
	}
	r := &Runtime{
		cfg: cfg, classes: offered, host: hostFacts(cfg.Logger), keeper: keeper.NewClient(cfg.RunDir), cgroups: warm.New(),
		sandboxes: map[string]*cri.Sandbox{}, containers: map[string]*cri.Container{}, running: map[string]*cri.Container{}, views: map[string]*keeper.View{},
		parents: map[string]string{}, made: madeParents{file: filepath.Join(cfg.StateDir, "cgroups.json")},
	}
	if !cfg.NoSELinux {
		r.labels = label.Open(cfg.Logger)
	}
	if err := r.makeDirs(); err != nil {
		return nil, err
	}
	if err := r.own(cfg.StateDir, cfg.RunDir); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	err = cfg.cleanProbes()
	if err == nil {
		r.engines, err = chooseEngines(ctx, &r.cfg, r.run("runtime"))
	}
	if err == nil {
		r.handlers, r.criu = describeHandlers(&r.cfg, r.engines), checkpoints(ctx, &r.cfg, r.engines[""])
		err = r.connect(ctx)
	}
	if err != nil {
		// A program that is no keeper makes OCI runtimes look broken: the containers that
		// probe them run it.
		if wrong := keeper.Check(ctx, cfg.Keeper); wrong != nil {
			err = wrong
		}
		return nil, errors.Join(err, r.cfg.pruneCgroups(), r.Close())
	}
	return r, nil
}

// makeDirs makes the directories, accessible to root only; others may only traverse the
// run directory, to reach the roots of containers in user namespaces.
func (r *Runtime) makeDirs() error {
	closed := []string{r.cfg.StateDir, r.keeperState(), r.cfg.RunDir, r.run(sandboxesDir), r.run("exec"), r.run("runtime"), r.run(rootsDir)}
	for _, d := range closed {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("making a directory of the oci runtime: %w", err)
		}
	}
	return errors.Join(os.Chmod(r.cfg.RunDir, 0o711), os.Chmod(r.run(rootsDir), 0o711))
}

func (c *Config) complete() error {
	if c.CgroupParent == "" {
		c.CgroupParent = "/nodekit"
	}
	if len(c.CDIDirs) == 0 {
		c.CDIDirs = cdi.DefaultSpecDirs
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.StateDir == "" || c.RunDir == "":
		return fault.Invalid.Errorf("a state and a run directory are needed")
	case c.Images == nil:
		return fault.Invalid.Errorf("an image store is needed")
	case os.Geteuid() != 0:
		return fault.PermissionDenied.Errorf("running containers needs root: run it with sudo")
	case c.Systemd && !cgroup.Systemd():
		return fault.FailedPrecondition.Errorf("the systemd cgroup driver needs systemd as process 1, and here it is not: use the cgroupfs driver")
	}
	for _, p := range []*string{&c.StateDir, &c.RunDir, &c.Keeper} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if info, err := os.Stat(c.Keeper); err != nil || info.IsDir() {
		return fault.FailedPrecondition.Errorf("the keeper program %q is not there: build cmd/keeper", c.Keeper)
	}
	return nil
}

// own keeps a second runtime off the same state and the same keeper.
func (r *Runtime) own(dirs ...string) error {
	for _, d := range dirs {
		l, err := flock.TryAcquire(d, flock.Exclusive)
		if err != nil {
			return err
		}
		if l == nil {
			return fault.AlreadyExists.Errorf("another runtime uses %q: stop it, or choose other directories", d)
		}
		r.locks = append(r.locks, l)
	}
	return nil
}

func (r *Runtime) run(elem ...string) string {
	return filepath.Join(append([]string{r.cfg.RunDir}, elem...)...)
}

// Engine returns the path of the OCI runtime for Pods that do not choose a handler.
func (r *Runtime) Engine() string { return r.engines[""].path }

// CRI returns the cri.Runtime for the SDK to serve.
func (r *Runtime) CRI() *cri.Runtime {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if r.cfg.Systemd {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	saves := &cri.Checkpoints{Resume: r.thaw} // also where criu has worked before and does not now
	if r.criu {
		saves.Container, saves.Pause, saves.Dump, saves.Restore = r.checkpoint, r.freeze, r.dump, r.restore
	}
	return &cri.Runtime{
		Name: "nodekit", Version: "0.1.0",
		CgroupDriver: driver,
		Handlers:     r.handlers,
		Features:     cri.Features{MountOptions: true, SupplementalGroupsPolicy: true},

		RunSandbox: r.runSandbox, StopSandbox: r.stopSandbox, RemoveSandbox: r.removeSandbox,
		CreateContainer: r.createContainer, StartContainer: r.startContainer,
		StopContainer: r.stopContainer, RemoveContainer: r.removeContainer,
		UpdateContainer: r.updateContainer, UpdateSandbox: r.updateSandbox, ReopenLog: r.reopenLog,
		Exec: r.exec, Attach: r.attach, PortForward: r.portForward,
		Stats: r.stats, SandboxStats: r.sandboxStats, Metrics: r.metrics(), NetworkReady: r.networkReady,
		Info:        cri.Info{Runtime: r.runtimeInfo, Sandbox: r.sandboxInfo, Container: r.containerInfo},
		Checkpoints: saves,
		Recover:     r.recover, Watch: r.watch,
		Images: r.cfg.Images.CRI(),
	}
}

// Close releases the directories. Containers and the keeper keep running, and the next
// New with the same directories finds them.
func (r *Runtime) Close() error {
	err := r.endApart()
	for _, l := range r.locks {
		l.Release()
	}
	return errors.Join(err, r.nulls.close())
}

// Shutdown ends every container, removes every sandbox that this Runtime has served or
// recovered, ends the keeper, and leaves nothing behind. It is for disposable nodes. No
// other method may be called during or after it.
func (r *Runtime) Shutdown(ctx context.Context) error {
	// If the keeper died, a new one is started first, to deal with what the old one left.
	errs := []error{r.connect(ctx)}
	sandboxes, containers := r.known()
	for _, c := range containers {
		errs = append(errs, r.stopContainer(ctx, c, 0), r.removeContainer(ctx, c))
	}
	for _, s := range sandboxes {
		// A CNI plugin whose DEL fails must not block the rest: what it left in the
		// network namespace goes away with that.
		errs = append(errs, r.removePause(ctx, s), r.detachNetwork(ctx, s), r.unpin(s), r.removeSandbox(ctx, s))
	}
	errs = append(errs, r.endKeeper(ctx), r.cfg.pruneCgroups())
	errs = append(errs, r.endApart())
	for _, d := range []string{sandboxesDir, "exec", "runtime", rootsDir} {
		errs = append(errs, os.RemoveAll(r.run(d)))
	}
	return errors.Join(append(errs, r.Close())...)
}

func (r *Runtime) known() (sandboxes []*cri.Sandbox, containers []*cri.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.sandboxes)), slices.Collect(maps.Values(r.containers))
}

func randomID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

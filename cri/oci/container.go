package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// containerState is the content of cri.Container.State: what later calls need and nothing
// else records.
type containerState struct {
	Version    int    `json:"version"`
	Engine     string `json:"engine"` // path of the OCI runtime that runs it
	StopSignal int    `json:"stopSignal"`
	// Poststop is set if hooks run after the container's end.
	Poststop bool `json:"poststop,omitempty"`
	// Restored is set if the start restores the container from a checkpoint: see
	// restoredDir.
	Restored bool `json:"restored,omitempty"`
}

// Since version 2, bundles are in the run directory; states of version 1 do not record
// hooks. The state of a restored container has version 3: a program that knows only
// earlier versions would start it from the beginning.
const (
	stateVersion    = 2
	restoredVersion = 3
)

// bundleOf returns the directory of the container's bundle. Like the container itself, it
// does not survive a reboot.
func (r *Runtime) bundleOf(c *cri.Container) string {
	var st containerState
	if err := json.Unmarshal(c.State, &st); err == nil && st.Version == 1 {
		return filepath.Join(c.Dir, "bundle")
	}
	return filepath.Join(r.sandboxDir(c.Sandbox.ID), "bundle-"+c.ID)
}

// imageDir is where the image store keeps the container's root file system.
func imageDir(c *cri.Container) string { return filepath.Join(c.Dir, "image") }

// engineOf returns the OCI runtime that runs the container, which may differ from that of
// new containers.
func (r *Runtime) engineOf(c *cri.Container) (engine, containerState, error) {
	st := containerState{Engine: r.engines[""].path, StopSignal: int(unix.SIGTERM)}
	if len(c.State) > 0 {
		if err := json.Unmarshal(c.State, &st); err != nil {
			return engine{}, st, fmt.Errorf("reading the state of container %q: %w", c.ID, err)
		}
		if st.Version > restoredVersion {
			return engine{}, st, fault.FailedPrecondition.Errorf("the state of container %q is of version %d, and this program knows %d", c.ID, st.Version, restoredVersion)
		}
	}
	return engine{path: st.Engine, root: r.engines[""].root}, st, nil
}

// startContainer runs the program. A single run of the OCI runtime creates and starts the
// container, at half the cost of two.
func (r *Runtime) startContainer(ctx context.Context, c *cri.Container) error {
	r.starting.RLock()
	defer r.starting.RUnlock()
	e, st, err := r.engineOf(c)
	if err != nil {
		return err
	}
	if err := checkLog(c.LogPath); err != nil {
		return err
	}
	cg, score := r.cgroupOf(c), spec.OOMScore(c.Config.GetLinux().GetResources(), r.host)
	p := process{engine: e, id: c.ID, cg: cg, bundle: r.bundleOf(c), view: r.viewNoted(c.ID)}
	if st.Restored {
		p.images, p.view = restoredDir(c), nil // criu looks at all mounts
	}
	defer r.abortWith(ctx, c.ID)()
	_, err = r.launch(ctx, p, &keeper.StartRequest{
		Log: c.LogPath, LogDir: c.Sandbox.Config.GetLogDirectory(), Stdin: c.Config.GetStdin(), StdinOnce: c.Config.GetStdinOnce(),
		OOMFile: cgroup.OOMFile(cg),
		Command: keeper.Command{Console: consoleName(c.Config.GetTty()), OOMScoreAdj: &score},
	})
	if err != nil {
		r.filters.doubt(e)
		if reachedKeeper(c) { // otherwise the next server may find that the start never began
			r.restoreFailed(ctx, c)
		}
		return err
	}
	r.mu.Lock()
	r.running[c.ID] = c
	delete(r.views, c.ID)
	r.mu.Unlock()
	if err := r.filters.learn(c.ID, e); err != nil { // the next start learns it
		r.cfg.Logger.WarnContext(ctx, "keeping a seccomp filter", "container", c.ID, "err", err)
	}
	if err := r.releaseTrees(c); err != nil { // removeContainer does
		r.cfg.Logger.WarnContext(ctx, "giving up mounts of a container that has its own", "container", c.ID, "err", err)
	}
	r.restoreOver(c)
	return nil
}

// abortWith ends a start in progress when somebody wants the container dead, until over
// is called. A server that stops leaves the start to the keeper, and the next server
// finds its outcome.
func (r *Runtime) abortWith(ctx context.Context, id string) (over func()) {
	started, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		// The start may not have reached the keeper yet, or may not have a process yet.
		for errors.Is(context.Cause(ctx), fault.FailedPrecondition) && started.Err() == nil {
			_, _, _ = r.keeper.Signal(started, id, unix.SIGKILL, killMoment)
			time.Sleep(abortPause)
		}
	})
	return func() { stop(); cancel() }
}

// abortPause is the pause between two attempts to end a start.
const abortPause = 20 * time.Millisecond

// checkLog refuses to log to anything but a regular file: through a symbolic link, for
// example, a container that can write to its log's directory would have the keeper write
// to any file.
func checkLog(path string) error {
	if path == "" {
		return nil
	}
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at the log: %w", err)
	case !fi.Mode().IsRegular():
		return fault.Invalid.Errorf("the log path %q is no regular file (%v)", path, fi.Mode())
	}
	return nil
}

func consoleName(tty bool) string {
	if tty {
		return "console.sock"
	}
	return ""
}

// process is what an OCI runtime is to run: a bundle in a cgroup, to be restored from
// criu's images in a directory if images is set.
type process struct {
	engine         engine
	view           *keeper.View
	id, cg, bundle string
	images         string
}

// launch has the keeper run p. The pid file, the console socket and the OCI runtime's log
// are in the bundle.
func (r *Runtime) launch(ctx context.Context, p process, req *keeper.StartRequest) (keeper.Status, error) {
	r.cgroups.Keep()
	const pidFile, log = "pid", "runtime.log"
	rest := []string{"--detach", "--bundle", p.bundle, "--pid-file", filepath.Join(p.bundle, pidFile)}
	if req.Command.Console != "" {
		rest = append(rest, "--console-socket", req.Command.Console)
	}
	verb := "run"
	req.Command.View = p.view
	if p.images != "" {
		verb, rest = "restore", append(rest, "--image-path", p.images, "--work-path", p.bundle, "--file-locks")
	}
	req.Command.Args = p.engine.runArgs(filepath.Join(p.bundle, log), p.cg, verb, append(rest, p.id)...)
	req.Command.Dir, req.Command.PIDFile = p.bundle, pidFile
	st, err := r.keeper.Start(ctx, p.id, req)
	if err != nil {
		msg := firstText(complaint(filepath.Join(p.bundle, "restore.log")), logMessage(filepath.Join(p.bundle, log)))
		if msg != "" && !errors.Is(err, fault.Unavailable) {
			err = fault.Of(err).Wrap(errors.New(msg))
		}
		return st, err
	}
	return st, nil
}

// stopContainer asks the program to end and kills it after grace.
func (r *Runtime) stopContainer(ctx context.Context, c *cri.Container, grace time.Duration) error {
	_, st, err := r.engineOf(c)
	if err != nil {
		return err
	}
	if grace > 0 {
		end, err := r.endWithin(ctx, c.ID, unix.Signal(st.StopSignal), grace, nil)
		if ctx.Err() != nil {
			return ctx.Err() // the grace period is not over: the next call decides
		}
		if err != nil || end != notEnded {
			return errors.Join(err, r.killLeft(c, end))
		}
	}
	// With cgroup v1, a frozen process does not even die of SIGKILL.
	end, err := r.endWithin(ctx, c.ID, unix.SIGKILL, killLimit, func() error { return cgroup.Thaw(r.cgroupOf(c)) })
	return errors.Join(err, r.killLeft(c, end)) // nothing keeps running, even if the keeper is gone
}

// end says what is known about a container's end.
type end int

const (
	notEnded end = iota
	untold       // the keeper does not know the container, or not how it ended
	seen         // the keeper has seen its first process end
)

// killLeft kills what an ended container left behind. The first process of a PID
// namespace does not end before all others have (pid_namespaces(7)); once it was seen to
// end, nothing is left.
func (r *Runtime) killLeft(c *cri.Container, e end) error {
	if e == seen && ownPIDs(c) {
		return nil
	}
	return r.killRest(c)
}

// ownPIDs reports whether the container has a PID namespace of its own: see namespacesOf.
func ownPIDs(c *cri.Container) bool { return pidMode(c) == runtimeapi.NamespaceMode_CONTAINER }

// killLimit is how long a process may take to end after SIGKILL; releasing gigabytes of
// memory takes seconds.
const killLimit = 30 * time.Second

// killMoment is the time within which most containers end.
const killMoment = 200 * time.Millisecond

// endWithin signals the container and waits for its end. late, if not nil, is called if
// the keeper does not report the end within killMoment.
func (r *Runtime) endWithin(ctx context.Context, id string, sig unix.Signal, limit time.Duration, late func() error) (end, error) {
	exit, sent, err := r.keeper.Signal(ctx, id, sig, min(killMoment, limit))
	timed, cancel := context.WithDeadline(ctx, sent.Add(limit))
	defer cancel()
	if err == nil && exit == nil {
		if late != nil {
			err = late()
		}
		if err == nil {
			exit, err = r.keeper.Wait(timed, id)
		}
	}
	switch {
	case errors.Is(err, fault.NotFound):
		return untold, nil
	case err == nil && exit.Lost:
		return untold, nil
	case err == nil:
		return seen, nil
	case timed.Err() != nil && ctx.Err() == nil:
		return notEnded, nil
	}
	return notEnded, err
}

// killRest kills what a container left in its cgroup: everything, if it shared its PID
// namespace with others. Frozen processes would not die, so they are thawed first.
func (r *Runtime) killRest(c *cri.Container) error {
	cg := r.cgroupOf(c)
	return errors.Join(cgroup.Thaw(cg), cgroup.Kill(cg))
}

// removeContainer ends the container and removes everything that belongs to it, directly
// through the kernel, which is cheaper than executing the OCI runtime for a delete.
func (r *Runtime) removeContainer(ctx context.Context, c *cri.Container) error {
	if err := r.keeper.Remove(ctx, c.ID); err != nil {
		return err
	}
	if err := cgroup.Destroy(r.cgroupOf(c)); err != nil {
		return err
	}
	if err := r.detachRestore(c); err != nil {
		return err
	}
	if err := r.deleteState(ctx, c); err != nil {
		return err
	}
	if err := unpin(r.targetPin(c)); err != nil {
		return err
	}
	if err := errors.Join(r.hideRoot(c), r.releaseMounts(c)); err != nil {
		return err
	}
	if err := r.cfg.Images.ForgetRootfs(imageDir(c)); err != nil { // its files go with the container's directory
		return err
	}
	r.mu.Lock()
	delete(r.containers, c.ID)
	delete(r.running, c.ID)
	delete(r.views, c.ID)
	r.mu.Unlock()
	r.rates.forget(c.ID)
	r.filters.forget(c.ID)
	r.labels.Release(c.ID)
	return os.RemoveAll(r.bundleOf(c))
}

// deleteState removes the OCI runtime's state of the container. Only hooks that run after
// the end need the runtime itself for that.
func (r *Runtime) deleteState(ctx context.Context, c *cri.Container) error {
	e, st, err := r.engineOf(c)
	if err != nil {
		return err
	}
	if _, err := os.Stat(e.stateDir(c.ID)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	after := st.Poststop
	if st.Version == 1 {
		doc, err := readSpec(r.bundleOf(c))
		after = err == nil && hooksAfter(doc)
	}
	if after {
		log := filepath.Join(r.bundleOf(c), "delete.log")
		cmd := &keeper.Command{Args: e.args(log, "delete", "--force", c.ID), Dir: r.bundleOf(c)}
		if err := r.keeper.Runtime(ctx, cmd); err != nil {
			return fmt.Errorf("deleting container %q: %s: %w", c.ID, logMessage(log), err)
		}
	}
	return e.dropState(c.ID)
}

// hooksAfter reports whether hooks run after the end of the container.
func hooksAfter(doc *specs.Spec) bool { return doc.Hooks != nil && len(doc.Hooks.Poststop) > 0 }

// profileFile is beside a spec whose seccomp profile has lost its system calls, and holds
// the whole profile.
const profileFile = "seccomp.json"

// Spec returns the OCI spec of a created container.
func (r *Runtime) Spec(c *cri.Container) (*specs.Spec, error) { return readWholeSpec(r.bundleOf(c)) }

// readWholeSpec is readSpec for callers that want to know how the container is confined,
// and may run it elsewhere.
func readWholeSpec(bundle string) (*specs.Spec, error) {
	doc, err := readSpec(bundle)
	if err != nil {
		return nil, err
	}
	delete(doc.Annotations, filterAnnotation)
	delete(doc.Annotations, criuAnnotation)
	content, err := os.ReadFile(filepath.Join(bundle, profileFile))
	if errors.Is(err, os.ErrNotExist) {
		return doc, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	doc.Linux.Seccomp = &specs.LinuxSeccomp{}
	if err := json.Unmarshal(content, doc.Linux.Seccomp); err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	return doc, nil
}

func readSpec(bundle string) (*specs.Spec, error) {
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	var doc specs.Spec
	if err := json.Unmarshal(content, &doc); err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	return &doc, nil
}

func (r *Runtime) reopenLog(ctx context.Context, c *cri.Container) error {
	if err := checkLog(c.LogPath); err != nil {
		return err
	}
	return whileRunning(c, r.keeper.Reopen(ctx, c.ID))
}

// whileRunning translates the error of a call to the keeper that needs a running
// container. The caller has seen it running; if the keeper does not know it, it has ended
// since: a keeper that dies forgets an end that the server has recorded.
func whileRunning(c *cri.Container, err error) error {
	if errors.Is(err, fault.NotFound) {
		return fault.FailedPrecondition.Errorf("container %q is not running", c.ID)
	}
	return err
}

package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// recover corrects the records to the state of the keeper and the kernel, and frees what
// the network holds for sandboxes without a record.
func (r *Runtime) recover(ctx context.Context, sandboxes []*cri.Sandbox, containers []*cri.Container) error {
	r.keepApart()
	statuses, err := r.statuses(ctx)
	if err != nil {
		return err
	}
	// The files of an earlier server's execs, which the keeper has ended by now.
	if err := emptyDir(r.run("exec")); err != nil {
		return err
	}
	r.endSaves(ctx, sandboxes) // before anything is thawed or killed: frozen processes do not react to SIGKILL
	r.forgetCheckpoints(ctx, containers)
	for _, s := range sandboxes {
		s.Ready = s.Ready && r.sandboxAlive(s, statuses)
	}
	if err := r.recoverLabels(sandboxes, containers); err != nil {
		return err
	}
	var unsettled []*cri.Container
	for _, c := range containers {
		if err := r.recoverContainer(c, statuses); err != nil {
			return err
		}
		switch {
		case c.Running() && statuses[c.ID].Starting:
			unsettled = append(unsettled, c)
		case c.Running():
			r.restoreOver(c)
		case c.Exit != nil:
			r.restoreFailed(ctx, c)
		}
	}
	r.collectNetwork(ctx, sandboxes)
	r.remember(sandboxes, containers, unsettled)
	if err := r.releaseParents(); err != nil { // the next removal tries again
		r.cfg.Logger.WarnContext(ctx, "removing cgroups of Pods that are no more", "err", err)
	}
	return nil
}

func (r *Runtime) remember(sandboxes []*cri.Sandbox, containers, unsettled []*cri.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsettled = unsettled
	for _, s := range sandboxes {
		r.sandboxes[s.ID] = s
	}
	for _, c := range containers {
		r.containers[c.ID] = c
		if c.Running() {
			r.running[c.ID] = c
		}
	}
}

func (r *Runtime) recoverContainer(c *cri.Container, statuses map[string]keeper.Status) error {
	st, kept := statuses[c.ID]
	switch {
	case c.Exit != nil:
		return nil
	case !kept:
		// What runs there has no keeper: a start may have been in progress.
		switch {
		case c.StartedAt.IsZero():
		case reachedKeeper(c):
			lost := lostExit()
			c.Exit = &lost
		default:
			c.StartedAt = time.Time{} // the start was intended but never begun
		}
		return r.killRest(c)
	case !c.StartedAt.IsZero() && st.Exit != nil:
		e := exitOf(*st.Exit)
		c.Exit = &e
		if st.Exit.Lost {
			return r.killRest(c)
		}
	}
	return nil
}

// reachedKeeper reports whether a start of the container ever reached a keeper, which
// opens the log first. A container without a log leaves no such trace and counts as
// having run: it is better that it ends than that it runs twice.
func reachedKeeper(c *cri.Container) bool {
	if c.LogPath == "" {
		return true
	}
	_, err := os.Stat(c.LogPath)
	return !errors.Is(err, os.ErrNotExist)
}

// sandboxAlive reports whether everything that the sandbox's containers join exists.
// After a reboot it does not.
func (r *Runtime) sandboxAlive(s *cri.Sandbox, statuses map[string]keeper.Status) bool {
	dir := r.sandboxDir(s.ID)
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	if !hostNetwork(s) && (!pinned(filepath.Join(dir, "net")) || !pinned(filepath.Join(dir, "uts"))) {
		return false
	}
	if !hostIPC(s) && !pinned(filepath.Join(dir, "ipc")) {
		return false
	}
	if u, err := r.usersIn(s); err != nil || u != nil && !pinned(u.path()) {
		return false
	}
	pause := statuses[pauseID(s.ID)]
	return !sharesPID(s) || pause.PID != 0 || pause.Starting
}

func (r *Runtime) statuses(ctx context.Context) (map[string]keeper.Status, error) {
	list, err := r.keeper.List(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]keeper.Status{}
	for _, st := range list {
		byID[st.ID] = st
	}
	return byID, nil
}

func exitOf(e keeper.Exit) cri.Exit {
	if e.Lost {
		lost := lostExit()
		lost.At = e.At
		return lost
	}
	out := cri.Exit{Code: e.Code, At: e.At}
	if e.OOM {
		out.Reason = "OOMKilled"
	}
	return out
}

// lostExit is the exit of a container whose end nobody witnessed.
func lostExit() cri.Exit {
	return cri.Exit{
		Code: 137, At: time.Now(), Reason: "ContainerStatusUnknown",
		Message: "the keeper of the container and what stood behind it are gone, and its exit code with them",
	}
}

// watch reports exits as the keeper sees them. A keeper that dies is followed by one that
// takes over its containers. If its anchor is gone as well, the containers' output has no
// readers: they are ended and reported, and a new keeper is started for new ones.
func (r *Runtime) watch(ctx context.Context, ended func(string, cri.Exit)) error {
	report := func(id string, e cri.Exit) {
		ended(id, e)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer r.settle(ctx, report).Wait()
	defer cancel()
	for {
		err := r.keeper.Watch(ctx, func(e keeper.Exit) error {
			if e.Lost {
				r.endLost(ctx, e.ID)
			}
			report(e.ID, exitOf(e))
			return nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, fault.Unavailable):
			r.cfg.Logger.Error("the keeper died", "err", err)
			err = r.replaceKeeper(ctx, report)
		case !errors.Is(err, fault.Exhausted):
			return err
		}
		if err != nil { // it may be temporary, and nothing runs here without a keeper
			r.cfg.Logger.Error("exits cannot be watched now", "err", err)
			time.Sleep(watchPause)
		}
	}
}

// endLost kills what remains of a container whose end nobody saw: it may still run if its
// parents died while it started.
func (r *Runtime) endLost(ctx context.Context, id string) {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil {
		return
	}
	if err := r.killRest(c); err != nil {
		r.cfg.Logger.ErrorContext(ctx, "ending a container whose exit is lost", "container", id, "err", err)
	}
}

// settle waits in the background for the outcome of starts that were in progress when
// this server began and did not finish in time.
func (r *Runtime) settle(ctx context.Context, report func(string, cri.Exit)) *sync.WaitGroup {
	r.mu.Lock()
	defer r.mu.Unlock()
	var starts sync.WaitGroup
	for _, c := range r.unsettled {
		starts.Go(func() {
			began := r.awaitStart(ctx, c)
			if ctx.Err() != nil {
				return
			}
			if began {
				r.restoreOver(c)
			}
			if _, err := r.keeper.Wait(ctx, c.ID); errors.Is(err, fault.NotFound) {
				r.startFailed(ctx, c, report)
			}
		})
	}
	r.unsettled = nil
	return &starts
}

// awaitStart waits until the container's start is over or ctx ends, and reports whether
// the container began, going by what the keeper knows of it. The keeper's replies wait
// for the start as well, but not for long.
func (r *Runtime) awaitStart(ctx context.Context, c *cri.Container) (began bool) {
	for ctx.Err() == nil {
		statuses, err := r.statuses(ctx)
		switch st, kept := statuses[c.ID]; {
		case err == nil && !st.Starting:
			return kept
		case err != nil: // another keeper is coming and will know
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
	return false
}

func (r *Runtime) startFailed(ctx context.Context, c *cri.Container, report func(string, cri.Exit)) {
	r.mu.Lock()
	running := r.running[c.ID] != nil
	r.mu.Unlock()
	if !running {
		return // it was removed
	}
	if err := r.killRest(c); err != nil {
		r.cfg.Logger.Error("ending what a start has left", "container", c.ID, "err", err)
	}
	r.restoreFailed(ctx, c)
	report(c.ID, cri.Exit{
		Code: 128, At: time.Now(), Reason: "Error",
		Message: "its start was under way when the server began, and failed",
	})
}

// watchPause is the pause before watching exits again after a failure.
const watchPause = time.Second

func (r *Runtime) replaceKeeper(ctx context.Context, report func(string, cri.Exit)) error {
	r.starting.Lock() // starts by the dead keeper have failed or are in running
	defer r.starting.Unlock()
	if err := r.connect(ctx); err != nil {
		return err
	}
	statuses, err := r.statuses(ctx)
	if err != nil {
		return err
	}
	lost, reported := r.notKept(statuses)
	for _, c := range lost {
		if err := r.killRest(c); err != nil {
			return err
		}
		if reported[c.ID] {
			report(c.ID, lostExit())
		}
	}
	return r.killPauses(statuses)
}

// notKept returns the containers that the keeper does not know, and which of them count
// as running. A start that failed when the keeper died may have left its program running,
// too. An exit that the dead keeper had journalled is known to the next one.
func (r *Runtime) notKept(statuses map[string]keeper.Status) (lost []*cri.Container, running map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	running = map[string]bool{}
	for id, c := range r.containers {
		if _, kept := statuses[id]; !kept {
			lost = append(lost, c)
			running[id] = r.running[id] != nil
		}
	}
	return lost, running
}

// killPauses kills the first processes of shared PID namespaces that a dead keeper left.
// Their sandboxes are found to be broken when something is started there.
func (r *Runtime) killPauses(statuses map[string]keeper.Status) error {
	sandboxes, _ := r.known()
	var errs []error
	for _, s := range sandboxes {
		id := pauseID(s.ID)
		if _, kept := statuses[id]; kept || !sharesPID(s) {
			continue
		}
		parent, _ := r.parentCgroup(s)
		errs = append(errs, cgroup.Kill(cgroupIn(parent, id)))
	}
	return errors.Join(errs...)
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

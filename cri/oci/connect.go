package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/systemd"
)

// startLimit is how long a killed keeper may take to disappear.
const startLimit = 10 * time.Second

// connect finds the keeper or starts one. A killed keeper comes back by itself as long as
// its anchor lives, and connect then starts none. A new keeper that has no anchor
// inherits nothing, so what an earlier one left running in its cgroup, such as an OCI
// runtime at work, is killed first.
func (r *Runtime) connect(ctx context.Context) error {
	hello, err := r.keeper.Hello(ctx)
	if err == nil {
		return r.renew(ctx, hello)
	}
	if !errors.Is(err, fault.Unavailable) {
		return err
	}
	if anchored, aerr := r.keeper.Anchored(); aerr != nil || anchored {
		return errors.Join(err, aerr)
	}
	return r.startKeeper(ctx)
}

// renew replaces a keeper that runs another program than the configured one. A keeper
// that cannot be replaced keeps running: no container is ended for that.
func (r *Runtime) renew(ctx context.Context, hello keeper.Hello) error {
	runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", hello.PID))
	if err != nil {
		return nil // the keeper has just died, and comes back
	}
	want, err := os.Stat(r.cfg.Keeper)
	if err != nil || os.SameFile(runs, want) {
		return err
	}
	if err = r.keeper.Replace(ctx, r.cfg.Keeper); err == nil {
		r.cfg.Logger.Info("the keeper was replaced by the one that is installed", "program", r.cfg.Keeper)
		return nil
	}
	// A keeper without an anchor can be replaced only if it has no containers.
	if hello.Anchor == 0 && r.keeper.Shutdown(ctx) == nil {
		return r.startKeeper(ctx)
	}
	r.cfg.Logger.Warn("the keeper is not the one that is installed and goes on", "program", r.cfg.Keeper, "err", err)
	return nil
}

func (r *Runtime) startKeeper(ctx context.Context) error {
	if err := cgroup.Kill(r.keeperCgroup()); err != nil {
		return err
	}
	l := keeper.Launch{
		Binary: r.cfg.Keeper, State: r.keeperState(), Run: r.cfg.RunDir,
		Log: filepath.Join(r.keeperState(), "log"), Place: r.placeKeeper,
	}
	// A thread of the dead keeper may still hold its lock, which looks as if another
	// keeper were running; but a running one would answer.
	for deadline := time.Now().Add(startLimit); ; time.Sleep(5 * time.Millisecond) {
		if err := keeper.Start(ctx, l); err != nil {
			return errors.Join(err, cgroup.Destroy(r.keeperCgroup()))
		}
		_, err := r.keeper.Hello(ctx)
		if !errors.Is(err, fault.Unavailable) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// placeKeeper moves the process that becomes the keeper to where the end of neither this
// process's cgroup nor a Pod's reaches it: into a scope of its own if systemd is process
// 1, so that systemd knows and reports it, else into a cgroup beside the Pods'. It also
// goes there if systemd does not answer: the keeper works as well there, as long as
// nobody relies on systemd's view of the machine. Which driver creates the containers'
// cgroups makes no difference.
func (r *Runtime) placeKeeper(ctx context.Context, pid int) error {
	if cgroup.Systemd() {
		err := systemd.StartScope(ctx, r.keeperScope(), "Keeper of the containers at "+r.cfg.RunDir, pid)
		if err == nil {
			return nil
		}
		r.cfg.Logger.Warn("the keeper gets no scope from systemd and lives in a cgroup that systemd does not know",
			"cgroup", r.keeperCgroup(), "err", err)
	}
	cg := r.keeperCgroup()
	if err := cgroup.Create(cg); err != nil {
		return err
	}
	procs, err := cgroup.ProcsFiles(cg)
	if err != nil {
		return err
	}
	for _, f := range procs {
		if err := os.WriteFile(f, fmt.Append(nil, pid), 0); err != nil {
			return fmt.Errorf("leaving the server's cgroup: %w", err)
		}
	}
	return nil
}

// endKeeper ends the keeper, which has no containers any more, and whatever else is in
// its scope or cgroup.
func (r *Runtime) endKeeper(ctx context.Context) error {
	errs := []error{r.keeper.Shutdown(ctx)}
	if cgroup.Systemd() {
		// If this fails, most likely there is no scope, or it goes away once it is empty.
		if err := systemd.StopScope(ctx, r.keeperScope()); err != nil {
			r.cfg.Logger.Info("the keeper's scope may be left", "err", err)
		}
	}
	cg := r.keeperCgroup()
	return errors.Join(append(errs, cgroup.Destroy(cg))...)
}

func (r *Runtime) keeperState() string { return filepath.Join(r.cfg.StateDir, "keeper") }

// keeperName distinguishes the keeper from those of other run directories.
func (r *Runtime) keeperName() string {
	sum := sha256.Sum256([]byte(r.cfg.RunDir))
	return "keeper-" + hex.EncodeToString(sum[:4])
}

func (r *Runtime) keeperCgroup() string { return filepath.Join(r.cfg.CgroupParent, r.keeperName()) }

func (r *Runtime) keeperScope() string { return "nodekit-" + r.keeperName() + ".scope" }

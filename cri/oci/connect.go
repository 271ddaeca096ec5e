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

// startLimit is how long a killed keeper may take to be gone.
const startLimit = 10 * time.Second

// connect finds the keeper or starts one. One that was killed is back by itself
// as long as its anchor lives, and nothing is done in its place then. A new keeper
// that has no anchor before it inherits nothing, so what an earlier one left
// running beside it, an OCI runtime at work perhaps, is ended first.
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

// renew has a keeper that runs another program than the configured one replaced.
// One that cannot be replaced goes on: no container is ended for it.
func (r *Runtime) renew(ctx context.Context, hello keeper.Hello) error {
	runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", hello.PID))
	if err != nil {
		return nil // it has gone just now, and comes back
	}
	want, err := os.Stat(r.cfg.Keeper)
	if err != nil || os.SameFile(runs, want) {
		return err
	}
	if err = r.keeper.Replace(ctx, r.cfg.Keeper); err == nil {
		r.cfg.Logger.Info("the keeper was replaced by the one that is installed", "program", r.cfg.Keeper)
		return nil
	}
	// A keeper without an anchor can be replaced only where it keeps nothing.
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
	// A thread of the dead one may still hold a lock, which looks as if another
	// keeper ran; but that one would answer.
	for deadline := time.Now().Add(startLimit); ; time.Sleep(5 * time.Millisecond) {
		if err := keeper.Start(ctx, l); err != nil {
			return err
		}
		_, err := r.keeper.Hello(ctx)
		if !errors.Is(err, fault.Unavailable) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// placeKeeper puts the process that becomes the keeper where neither the end of
// this process's cgroup nor that of a Pod's reaches it: into a scope of its own
// where systemd is process 1, which then knows it and says so to everybody who
// asks, and else into a cgroup beside the Pods'. That is also where it goes when
// systemd does not answer: it serves as well there, as long as nobody counts on
// systemd's view of the machine. Who makes the containers' cgroups makes no
// difference to it.
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

// endKeeper ends the keeper, which has no containers any more, and what else
// is where it lived.
func (r *Runtime) endKeeper(ctx context.Context) error {
	errs := []error{r.keeper.Shutdown(ctx)}
	if cgroup.Systemd() {
		// Without an answer there is no scope, most likely, or it goes when it is empty.
		if err := systemd.StopScope(ctx, r.keeperScope()); err != nil {
			r.cfg.Logger.Info("the keeper's scope may be left", "err", err)
		}
	}
	cg := r.keeperCgroup()
	return errors.Join(append(errs, cgroup.Destroy(cg))...)
}

func (r *Runtime) keeperState() string { return filepath.Join(r.cfg.StateDir, "keeper") }

// keeperName tells the keeper from those of other run directories.
func (r *Runtime) keeperName() string {
	sum := sha256.Sum256([]byte(r.cfg.RunDir))
	return "keeper-" + hex.EncodeToString(sum[:4])
}

func (r *Runtime) keeperCgroup() string { return filepath.Join(r.cfg.CgroupParent, r.keeperName()) }

func (r *Runtime) keeperScope() string { return "nodekit-" + r.keeperName() + ".scope" }

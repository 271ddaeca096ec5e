package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Deadlines of runtime calls, as in the upstream kubelet.
const (
	callTimeout    = 2 * time.Minute
	sandboxTimeout = 4 * time.Minute
)

// resources is what the Pod has been given in this process. After a restart it is
// requested again only when a container has to be started: running containers need
// nothing.
type resources struct {
	have     bool
	released bool
	stale    bool      // an object that volumes may show has changed
	again    time.Time // when volumes are to be mounted again, zero for never
	volumes  pod.Volumes
	devices  map[string]pod.Devices
}

// apply carries out a plan. An error means that the rest of the plan was not done. A
// failure of a single container becomes its block instead.
func (w *worker) apply(v *pod.View, plan *pod.Plan) error {
	if err := w.killAll(v, plan.Kill); err != nil {
		return err
	}
	w.resize(v, plan.Update)
	for _, id := range plan.StopSandbox {
		if err := w.stopSandbox(w.ctx, id); err != nil {
			return err
		}
	}
	for _, id := range plan.Remove {
		if err := w.forget(v, id); err != nil {
			return err
		}
	}
	for _, id := range plan.RemoveSandbox {
		if err := w.removeSandbox(w.ctx, id); err != nil {
			return err
		}
	}
	if plan.Sandbox != nil {
		return w.tryOrWait(w.newSandbox(v.Pod, plan.Sandbox))
	}
	if len(plan.Start) == 0 {
		return nil
	}
	if err := w.acquire(v.Pod); err != nil {
		return w.blockAll(plan.Start, err)
	}
	for _, s := range plan.Start {
		w.startOne(v, s)
	}
	return nil
}

// tryOrWait turns an error into the waiting state of the Pod, or its rejection.
func (w *worker) tryOrWait(err error) error {
	if err == nil {
		w.waiting.clear()
		return nil
	}
	var reject *pod.RejectError
	if errors.As(err, &reject) {
		w.reject(reject)
		return nil
	}
	if w.starting.Err() != nil {
		return nil // the Pod is to terminate: the next plan handles that
	}
	wait := pod.Waiting(waitFor("FailedCreatePodSandBox", "its sandbox", err))
	w.warn("", wait.Reason, wait.Error())
	if w.waiting.set(wait) {
		w.step(pod.StepWait, wait.Reason, time.Time{}, wait)
	}
	return nil
}

// waitFor wraps err in a WaitError, unless it is a WaitError or RejectError already.
func waitFor(reason, what string, err error) error {
	var reject *pod.RejectError
	if pod.Waiting(err) != nil || errors.As(err, &reject) {
		return err
	}
	return &pod.WaitError{Reason: reason, For: what, Err: err}
}

// blockAll blocks containers that cannot be started because the Pod's volumes or
// devices are not available.
func (w *worker) blockAll(starts []pod.Start, err error) error {
	var reject *pod.RejectError
	if errors.As(err, &reject) {
		w.reject(reject)
		return nil
	}
	if wait := pod.Waiting(err); wait != nil {
		w.warn("", wait.Reason, wait.Error())
	}
	for _, s := range starts {
		w.blocks.set(s.Name, &pod.StartError{Reason: "CreateContainerConfigError", Err: err})
	}
	return nil
}

// acquire gets what containers need, once per process: devices, then the cgroup, then
// volumes.
func (w *worker) acquire(p *v1.Pod) error {
	if w.ready.have {
		return nil
	}
	w.ready.released = false
	begun := time.Now()
	devices, err := w.config.Devices.Allocate(w.starting, p)
	if err != nil {
		return waitFor("DeviceAllocationFailed", "its devices", err)
	}
	if len(devices) > 0 {
		w.step(pod.StepDevice, devicesOf(devices), begun, nil)
	}
	if err := w.config.Cgroups.Apply(p); err != nil {
		return waitFor("FailedCreatePodContainer", "its cgroup", err)
	}
	begun = time.Now()
	volumes, err := w.config.Volumes.Mount(w.starting, p)
	if err != nil {
		return waitFor("FailedMount", "its volumes", err)
	}
	if len(volumes) > 0 {
		w.step(pod.StepVolume, strings.Join(slices.Sorted(maps.Keys(volumes)), ", "), begun, nil)
	}
	w.ready = resources{have: true, volumes: volumes, devices: devices, again: refreshAt(volumes)}
	return nil
}

// devicesOf describes what device plugins gave to containers, for people: devices, or
// what else a plugin gives if it gives none.
func devicesOf(all map[string]pod.Devices) string {
	var parts []string
	for _, container := range slices.Sorted(maps.Keys(all)) {
		d := all[container]
		names := slices.Clone(d.CDI)
		for _, n := range d.Nodes {
			names = append(names, n.ContainerPath)
		}
		if len(names) == 0 {
			for _, m := range d.Mounts {
				names = append(names, m.ContainerPath)
			}
			for _, name := range slices.Sorted(maps.Keys(d.Envs)) {
				names = append(names, "$"+name)
			}
		}
		if len(names) == 0 {
			names = []string{"counted, with nothing to add,"}
		}
		parts = append(parts, strings.Join(names, " ")+" for "+container)
	}
	return strings.Join(parts, ", ")
}

// refresh updates the contents of volumes that are not fixed.
func (w *worker) refresh(v *pod.View) error {
	w.ready.stale, w.ready.again = false, time.Time{}
	if v.Ending != nil || v.Finished() || len(v.Seen.Active()) == 0 || !changes(v.Pod) {
		return nil
	}
	volumes, err := w.config.Volumes.Mount(w.starting, v.Pod)
	switch {
	case err == nil:
		w.ready.again = refreshAt(volumes)
	case pod.Waiting(err) != nil: // mounted volumes stay as they are
		w.ready.again = time.Now().Add(waitMax)
	default:
		w.ready.stale = true
		return fmt.Errorf("refreshing volumes: %w", err)
	}
	return nil
}

// refreshAt returns the earliest time at which a volume is to be mounted again.
func refreshAt(volumes pod.Volumes) (at time.Time) {
	for _, v := range volumes {
		if v.Refresh > 0 {
			at = sooner(time.Now().Add(v.Refresh), at)
		}
	}
	return at
}

// changes reports whether the Pod has volumes whose contents follow objects or are
// refreshed at a driver's request.
func changes(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool {
		return v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil ||
			v.CSI != nil || v.PersistentVolumeClaim != nil
	})
}

// release releases what acquire got in this process or an earlier one.
func (w *worker) release(p *v1.Pod) error {
	w.ready = resources{}
	if err := w.config.Volumes.Unmount(w.ctx, p.UID); err != nil {
		return fmt.Errorf("unmounting volumes: %w", err)
	}
	if err := w.config.Devices.Release(w.ctx, p.UID); err != nil {
		return fmt.Errorf("releasing devices: %w", err)
	}
	w.config.Admission.Release(p.UID)
	w.freed()
	return nil
}

func (w *worker) newSandbox(p *v1.Pod, n *pod.NewSandbox) error {
	if err := w.acquire(p); err != nil {
		return err
	}
	handler, err := w.config.Handler(w.starting, p)
	if err != nil {
		return err
	}
	config, err := w.config.Builder.Sandbox(p, n.Attempt)
	if err != nil {
		return err
	}
	if n.Attempt > 0 && w.told.once(fmt.Sprintf("sandbox %d", n.Attempt), time.Hour) {
		w.event("", pod.EventSandboxChanged, "The Pod's sandbox ended: it is replaced")
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(w.starting, sandboxTimeout)
	defer cancel()
	_, err = w.config.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	w.step(pod.StepSandbox, "", begun, err)
	if err != nil && !p.Spec.HostNetwork && w.starting.Err() == nil {
		if why := w.config.NetworkReady(w.starting); why != nil {
			return &pod.WaitError{Reason: "NetworkNotReady", For: "the runtime's network", Err: explain(why, err)}
		}
	}
	if err == nil {
		w.blocks.another()
	}
	return err
}

// explain joins the reason why the network is not ready with the sandbox's error,
// unless they are the same.
func explain(why, err error) error {
	if _, reason, ok := strings.Cut(why.Error(), ": "); ok && strings.Contains(err.Error(), reason) {
		return err
	}
	return errors.Join(why, err)
}

func (w *worker) stopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	_, err := w.config.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return unlessGone("stopping sandbox", id, err)
}

func (w *worker) removeSandbox(ctx context.Context, id string) error {
	if err := w.stopSandbox(ctx, id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := w.config.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return unlessGone("removing sandbox", id, err)
}

func (w *worker) removeContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := w.config.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return unlessGone("removing container", id, err)
}

// forget removes an instance that is no longer needed, and its log.
func (w *worker) forget(v *pod.View, id string) error {
	if err := w.removeContainer(w.ctx, id); err != nil {
		return err
	}
	for _, c := range v.Seen.Containers {
		if c.ID == id && filepath.Ext(c.LogPath) == ".log" {
			if err := os.Remove(c.LogPath); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("removing the log of container %q: %w", id, err)
			}
		}
	}
	return nil
}

func unlessGone(what, id string, err error) error {
	if err == nil || errors.Is(err, fault.NotFound) {
		return nil
	}
	return fmt.Errorf("%s %q: %w", what, id, err)
}

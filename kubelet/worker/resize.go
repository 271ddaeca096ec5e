package worker

import (
	"context"
	"fmt"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// resize changes the resources of running instances. Meanwhile the Pod's cgroup allows
// the larger of the old and new resources, so that it limits no container while growing
// or shrinking. Each step may be repeated: until the new status is recorded, a
// restarted worker does all of it again. A failure affects only its instance, which
// keeps running with the resources it has.
func (w *worker) resize(v *pod.View, updates []pod.Update) {
	if len(updates) == 0 {
		return
	}
	err := w.config.Cgroups.Apply(pod.Widest(v.Pod, v.Seen))
	for i := range updates {
		u := &updates[i]
		if err == nil {
			w.resized(u, w.resizeOne(v, u))
		} else {
			w.resized(u, fmt.Errorf("widening the Pod's cgroup: %w", err))
		}
	}
	if err == nil {
		if err := w.config.Cgroups.Apply(v.Pod); err != nil {
			w.log.Warn("fitting the Pod's cgroup after a resize", "err", err)
		}
	}
}

func (w *worker) resizeOne(v *pod.View, u *pod.Update) error {
	ctx, cancel := context.WithTimeout(w.ctx, callTimeout)
	defer cancel()
	limits := w.config.Builder.Update(v.Pod, u)
	if err := w.roomToShrink(ctx, u, limits.MemoryLimitInBytes); err != nil {
		return err
	}
	_, err := w.config.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: u.ID, Linux: limits})
	return err
}

// roomToShrink rejects a memory limit below the instance's current usage: on cgroup v2
// the kernel would OOM-kill it.
func (w *worker) roomToShrink(ctx context.Context, u *pod.Update, limit int64) error {
	if had, ok := u.From.Limits[v1.ResourceMemory]; limit <= 0 || ok && had.Value() <= limit {
		return nil
	}
	stats, err := w.config.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: u.ID})
	if err != nil {
		return nil //nolint:nilerr // a runtime without stats is left to decide
	}
	if used := stats.GetStats().GetMemory().GetWorkingSetBytes().GetValue(); used > uint64(limit) {
		return fault.FailedPrecondition.Errorf("the container uses %d bytes of memory, more than the new limit of %d", used, limit)
	}
	return nil
}

// resized records the outcome of a change.
func (w *worker) resized(u *pod.Update, err error) {
	if err == nil {
		w.resizes.given[u.ID] = u.To
		w.resizes.failed.clear(u.ID)
		w.event(u.Name, pod.EventResizeCompleted, "Resized container "+u.Name)
		return
	}
	b := w.resizes.failed.set(u.ID, err)
	b.Until = time.Now().Add(pod.Backoff(b.count, resizeMin, resizeMax))
	w.warn(u.Name, pod.EventResizeError, "Resizing container "+u.Name+": "+err.Error())
	w.log.Warn("container not resized", "container", u.Name, "err", err)
}

// resizes records the changes that this process made to running instances, by container
// ID.
type resizes struct {
	given  map[string]v1.ResourceRequirements
	failed blocks
}

func newResizes() resizes { return resizes{map[string]v1.ResourceRequirements{}, blocks{}} }

// forget drops the records of instances that are gone.
func (c *resizes) forget(seen *pod.Observation) {
	there := map[string]bool{}
	for _, s := range seen.Containers {
		there[s.ID] = true
	}
	maps.DeleteFunc(c.given, func(id string, _ v1.ResourceRequirements) bool { return !there[id] })
	maps.DeleteFunc(c.failed, func(id string, _ *block) bool { return !there[id] })
}

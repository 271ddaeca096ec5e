package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/call"
)

// endOrphans removes the remains of Pods that have no object: sandboxes and containers
// in the runtime, volumes, devices, cgroups, directories and logs. It is called after
// all sources have been read.
func (k *Kubelet) endOrphans(ctx context.Context, p *parts) error {
	known := map[types.UID]bool{}
	for _, have := range k.pods.list() {
		known[have.UID] = true
	}
	found, err := k.found(ctx, p)
	if err != nil {
		return nil // ctx ended
	}
	left, err := k.leftHere(p)
	if err != nil {
		return err
	}
	for uid, id := range left {
		if _, also := found[uid]; !also {
			found[uid] = id
		}
	}
	if err := p.cgroups.Refresh(); err != nil { // the next Pod's start does it, too
		k.config.Logger.Warn("bringing the weights of Pods up to date", "err", err)
	}
	for uid, id := range found {
		if !known[uid] && uid != "" {
			k.config.Logger.Info("ending a Pod that has no object", "pod", id.String(), "uid", id.UID)
			p.workers.Orphan(id)
		}
	}
	return nil
}

// found returns the Pods that have anything in the runtime. It retries until the
// runtime answers, which may be restarting, because a stray is reported only once. The
// error is ctx's.
func (k *Kubelet) found(ctx context.Context, p *parts) (map[types.UID]call.Pod, error) {
	for {
		found, err := p.observer.Found(ctx)
		if err == nil {
			return found, nil
		}
		k.config.Logger.Warn("looking for Pods that have no object", "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// endStrays removes sandboxes of Pods whose object is gone, whenever the runtime
// reports one: a sandbox whose creation was interrupted because its Pod was to end may
// appear after the Pod is gone.
func (k *Kubelet) endStrays(ctx context.Context, p *parts) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.stray:
		}
		// First what is known, then what is there: a Pod that ends in between is not
		// a stray, and one that comes in between has a worker.
		known := map[types.UID]bool{}
		for _, have := range k.pods.list() {
			known[have.UID] = true
		}
		found, err := k.found(ctx, p)
		if err != nil {
			return nil // ctx ended
		}
		for uid, id := range found {
			if !known[uid] && uid != "" {
				p.workers.Orphan(id)
			}
		}
	}
}

// leftHere returns the Pods that have volumes, devices, a cgroup, a directory or logs.
// A Pod of which only the UID is known gets that as its name.
func (k *Kubelet) leftHere(p *parts) (map[types.UID]call.Pod, error) {
	found := map[types.UID]call.Pod{}
	volumes, err := k.volumes.Pods()
	if err != nil {
		return nil, fmt.Errorf("looking for volumes of Pods that are gone: %w", err)
	}
	cgroups, err := p.cgroups.Pods()
	if err != nil {
		return nil, err
	}
	dirs, err := names(k.podsDir())
	if err != nil {
		return nil, err
	}
	for _, uid := range slices.Concat(volumes, k.devices.Pods(), cgroups, dirs) {
		found[uid] = call.Pod{Name: string(uid), UID: string(uid)}
	}
	logs, err := names(k.logDir())
	if err != nil {
		return nil, err
	}
	for _, dir := range logs { // <namespace>_<name>_<uid>
		if part := strings.Split(string(dir), "_"); len(part) == 3 {
			found[types.UID(part[2])] = call.Pod{Namespace: part[0], Name: part[1], UID: part[2]}
		}
	}
	return found, nil
}

func names(dir string) ([]types.UID, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing %q: %w", filepath.Base(dir), err)
	}
	var list []types.UID
	for _, e := range entries {
		list = append(list, types.UID(e.Name()))
	}
	return list, nil
}

package kubelet

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

// here is the field selector for the Pods of this node: an API may have others.
func (k *Kubelet) here() string { return "spec.nodeName=" + k.config.NodeName }

// listPods returns the Pods of this node as soon as the API answers. The error is the
// context's.
func (k *Kubelet) listPods(ctx context.Context) ([]*v1.Pod, error) {
	for failures := 1; ; failures++ {
		pods, err := client.List[*v1.Pod](ctx, k.client, k.here())
		if err == nil {
			return pods, nil
		}
		k.config.Logger.Warn("listing the Pods", "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pod.Backoff(failures, 100*time.Millisecond, 5*time.Second)):
		}
	}
}

// followPods passes every change of a Pod of this node to the workers.
func (k *Kubelet) followPods(ctx context.Context, p *parts, again func()) error {
	synced := make(chan struct{})
	var first []*v1.Pod // until then
	isSynced := false
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return k.client.Follow(ctx, &v1.Pod{}, k.here(), client.Handler{
			Changed: func(o object.Object) {
				k.pods.set(o.(*v1.Pod))
				if !isSynced {
					first = append(first, o.(*v1.Pod))
					return
				}
				p.workers.Update(o.(*v1.Pod))
			},
			Gone: func(o object.Object) {
				k.pods.remove(o.GetUID())
				p.workers.Gone(o.(*v1.Pod))
				again()
			},
			Synced: func() {
				isSynced = true
				updateAll(p.workers, first)
				close(synced)
			},
		})
	})
	group.Go(func() error {
		select {
		case <-synced: // until then every Pod would look like an orphan, and every claim unused
		case <-ctx.Done():
			return nil
		}
		if err := k.endOrphans(ctx, p); err != nil {
			return err
		}
		group.Go(func() error { return k.endClaims(ctx) })
		return k.endStrays(ctx, p)
	})
	return group.Wait()
}

// updateAll passes the Pods that exist at the start to the workers: first those that
// are terminating, because others may wait for their room.
func updateAll(workers *worker.Manager, pods []*v1.Pod) {
	for _, ending := range []bool{true, false} {
		for _, p := range pods {
			if (p.DeletionTimestamp != nil) == ending {
				workers.Update(p)
			}
		}
	}
}

// retry makes waiting Pods try again when what they may be waiting for has appeared: an
// object that they refer to, or any plugin.
func (k *Kubelet) retry(ctx context.Context, workers *worker.Manager) error {
	tell := func(o object.Object) {
		workers.Retry(func(p *v1.Pod) bool { return refers(p, o) })
		workers.RetryPulls(func(p *v1.Pod) bool { return pullsWith(p, o) })
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, example := range referred() {
		group.Go(func() error {
			return k.client.Follow(ctx, example, "", client.Handler{Changed: tell, Gone: tell, Synced: func() {}})
		})
	}
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-k.volumes.Changed():
			case <-k.devices.Changed():
			}
			workers.Retry(func(*v1.Pod) bool { return true })
		}
	})
	return group.Wait()
}

// referred returns an object of each kind that a Pod may wait for.
func referred() []object.Object {
	return []object.Object{
		&v1.ConfigMap{}, &v1.Secret{}, &v1.PersistentVolumeClaim{}, &v1.PersistentVolume{},
		&storagev1.StorageClass{}, &storagev1.CSIDriver{}, &nodev1.RuntimeClass{},
	}
}

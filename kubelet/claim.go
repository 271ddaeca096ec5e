package kubelet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// claims are the claims that are being deleted, by UID.
type claims struct {
	mu      sync.Mutex
	ending  map[types.UID]*v1.PersistentVolumeClaim
	changed chan struct{} // has room for one signal
}

func (c *claims) set(o object.Object) {
	claim := o.(*v1.PersistentVolumeClaim)
	if claim.DeletionTimestamp == nil {
		return
	}
	c.mu.Lock()
	c.ending[claim.UID] = claim
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *claims) remove(o object.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ending, o.GetUID())
}

func (c *claims) list() []*v1.PersistentVolumeClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*v1.PersistentVolumeClaim, 0, len(c.ending))
	for _, claim := range c.ending {
		list = append(list, claim)
	}
	return list
}

// endClaims runs until ctx ends. It deletes the volumes of deleted claims once no Pod
// uses them any more, and removes the claims' finalizers.
func (k *Kubelet) endClaims(ctx context.Context) error {
	c := &claims{ending: map[types.UID]*v1.PersistentVolumeClaim{}, changed: make(chan struct{}, 1)}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return k.client.Follow(ctx, &v1.PersistentVolumeClaim{}, "", client.Handler{Changed: c.set, Gone: c.remove, Synced: func() {}})
	})
	group.Go(func() error {
		for failures := 0; ; {
			_, pods := k.pods.get("")
			again := (<-chan time.Time)(nil)
			if waiting := k.endUnused(ctx, c.list()); waiting {
				failures++
				again = time.After(pod.Backoff(failures, 100*time.Millisecond, 10*time.Second))
			} else {
				failures = 0
			}
			select {
			case <-ctx.Done():
				return nil
			case <-c.changed:
			case <-pods:
			case <-again:
			}
		}
	})
	return group.Wait()
}

// endUnused deletes the claims that no Pod uses, and reports whether any of them could
// not be deleted yet.
func (k *Kubelet) endUnused(ctx context.Context, ending []*v1.PersistentVolumeClaim) (waiting bool) {
	for _, claim := range ending {
		if k.uses(claim) {
			continue
		}
		if err := k.deleteClaim(ctx, claim); err != nil && ctx.Err() == nil {
			k.config.Logger.Warn("deleting a claim", "claim", claim.Namespace+"/"+claim.Name, "err", err)
			waiting = true
		}
	}
	return waiting
}

// uses reports whether a Pod that has not finished uses the claim.
func (k *Kubelet) uses(claim *v1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(k.pods.list(), func(p *v1.Pod) bool {
		return p.Namespace == claim.Namespace && !pod.Terminal(p.Status.Phase) &&
			slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool {
				return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name
			})
	})
}

// deleteClaim deletes the claim's volume, and then the claim. It is idempotent, and
// does not touch another claim with the same name.
func (k *Kubelet) deleteClaim(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	if err := k.volumes.DeleteClaim(ctx, claim); err != nil {
		return err
	}
	var have v1.PersistentVolumeClaim
	err := k.client.Get(ctx, claim.Namespace, claim.Name, &have)
	if err == nil && have.UID == claim.UID && slices.Contains(have.Finalizers, object.ClaimProtection) {
		have.Finalizers = slices.DeleteFunc(have.Finalizers, func(f string) bool { return f == object.ClaimProtection })
		err = k.client.Update(ctx, &have)
	}
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

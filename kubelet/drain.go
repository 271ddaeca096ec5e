package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/store"
)

// drainForced is how long Drain goes on after its context ended.
const drainForced = 10 * time.Second

// Drain ends every Pod with its own grace, waits until nothing of them is left,
// and deletes the claims with the volumes that were provisioned for them. From
// then on manifest files are not read any more. Run must be running: it does the
// work. When ctx ends first, Pods that are left are killed, and Drain goes on
// for a few seconds more. When Run ends first, so does Drain, with
// fault.Unavailable if anything is left.
func (k *Kubelet) Drain(ctx context.Context) error {
	k.drain()
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	events, err := k.store.Watch(live, &v1.Pod{})
	if err != nil {
		return err
	}
	if err := k.endAll(live, nil); err != nil {
		return err
	}
	soft := ctx.Done()
	var hard <-chan time.Time
	for len(k.store.Pods()) > 0 {
		select {
		case e := <-events:
			if e.Type == store.Added { // raced with a source
				err = k.endAll(live, nil)
			}
		case <-soft:
			soft, hard = nil, time.After(drainForced)
			err = k.endAll(live, new(int64))
		case <-hard:
			return fault.Unavailable.Errorf("draining the node: %d Pods are left: see the log for what holds them", len(k.store.Pods()))
		case <-k.over:
			return fault.Unavailable.Errorf("draining the node: it does not run any more, and %d Pods are left", len(k.store.Pods()))
		}
		if err != nil {
			return err
		}
	}
	if err := k.waitEmpty(live); err != nil {
		return err
	}
	return k.deleteClaims(live)
}

// waitEmpty waits for what is left of Pods that have no object: somebody else
// deleted it, or it was an orphan.
func (k *Kubelet) waitEmpty(ctx context.Context) error {
	workers := k.workers.Load()
	if workers == nil {
		return nil // no runtime has answered, so nothing was begun
	}
	ctx, cancel := context.WithTimeout(ctx, drainForced)
	defer cancel()
	go func() {
		select {
		case <-k.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := workers.WaitEmpty(ctx); err != nil {
		return fault.Unavailable.Errorf("draining the node: parts of Pods that have no object are left: see the log for what holds them")
	}
	return nil
}

func (k *Kubelet) endAll(ctx context.Context, grace *int64) error {
	for _, p := range k.store.Pods() {
		err := k.store.End(ctx, types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, grace)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return fmt.Errorf("ending Pod %q: %w", p.Name, err)
		}
	}
	return nil
}

// deleteClaims deletes all claims. A driver that is away is waited for a little.
func (k *Kubelet) deleteClaims(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainForced)
	defer cancel()
	var errs []error
	for _, c := range store.List[*v1.PersistentVolumeClaim](k.store, "") {
		err := k.volumes.DeleteClaim(ctx, c.Namespace, c.Name)
		for n := 1; err != nil && n < 5 && ctx.Err() == nil; n++ {
			time.Sleep(pod.Backoff(n, 50*time.Millisecond, time.Second))
			err = k.volumes.DeleteClaim(ctx, c.Namespace, c.Name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("deleting claim %q: %w", c.Namespace+"/"+c.Name, err))
		}
	}
	return errors.Join(errs...)
}

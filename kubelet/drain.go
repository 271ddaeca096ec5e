package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// drainForced is how long Drain continues after its context has ended.
const drainForced = 10 * time.Second

// The time that Pods may take to end beyond their grace period: slack in any case, and
// slackPerPod for each, because many Pods share the machine's cores.
const (
	slack       = 5 * time.Second
	slackPerPod = 200 * time.Millisecond
)

// patience returns how long the Pods may take to end: their longest grace period and
// the slack. A plugin that never releases a Pod must not block Drain forever.
func patience(pods []*v1.Pod) time.Duration {
	var longest int64
	for _, p := range pods {
		if grace := p.Spec.TerminationGracePeriodSeconds; grace != nil {
			longest = max(longest, *grace)
		}
	}
	return time.Duration(longest)*time.Second + slack + time.Duration(len(pods))*slackPerPod
}

// Drain terminates every Pod of this node with its own grace period, waits until
// nothing of them is left, and deletes the claims with the volumes that were
// provisioned for them. From then on manifest files are no longer read. Run must be
// running: it does the work. If ctx ends first, or the Pods do not end within their
// longest grace period and some slack, Drain kills those that are left and continues
// for a few seconds. If Run ends first, Drain returns, with fault.Unavailable if
// anything is left.
func (k *Kubelet) Drain(ctx context.Context) error {
	k.drain()
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	pods, err := client.List[*v1.Pod](live, k.client, k.here())
	if err != nil {
		return fmt.Errorf("listing the Pods: %w", err)
	}
	ctx, stop := context.WithTimeout(ctx, patience(pods))
	defer stop()
	changed := make(chan struct{}, 1)
	tell := func(object.Object) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	go func() { // errors only for what is no object
		_ = k.client.Follow(live, &v1.Pod{}, k.here(), client.Handler{Changed: tell, Gone: tell, Synced: func() { tell(nil) }})
	}()
	soft := ctx.Done()
	var hard <-chan time.Time
	var grace *int64
	for {
		left, err := k.endAll(live, grace)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-changed:
		case <-soft:
			soft, hard, grace = nil, time.After(drainForced), new(int64)
		case <-hard:
			return k.held(left)
		case <-k.over:
			return fault.Unavailable.Errorf("draining the node: it does not run any more, and has not ended %s", podNames(left))
		}
	}
	if err := k.waitEmpty(live); err != nil {
		return err
	}
	return k.deleteClaims(live)
}

// waitEmpty waits until nothing is left of Pods without an object: orphans, and Pods
// whose object somebody else deleted.
func (k *Kubelet) waitEmpty(ctx context.Context) error {
	workers := k.workers.Load()
	if workers == nil {
		return nil // no runtime has answered, so nothing was started
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
		return k.held(nil)
	}
	return nil
}

// held returns the error for what is left: these Pods, and others that have no object.
func (k *Kubelet) held(pods []*v1.Pod) error {
	var held []string
	if workers := k.workers.Load(); workers != nil {
		held = workers.Held()
	}
	if len(held) == 0 { // nothing of them was started
		return fault.Unavailable.Errorf("draining the node: what is left is %s", podNames(pods))
	}
	const most = 5
	if more := len(held) - most; more > 0 {
		held = append(held[:most], fmt.Sprintf("and %d more Pods, of which the log tells", more))
	}
	return fault.Unavailable.Errorf("draining the node: something is left of\n%s", strings.Join(held, "\n"))
}

// endAll terminates all Pods, within their own grace period if grace is nil and within
// soonest otherwise, and returns all that exist. With a grace it also shortens the
// grace period of Pods that are terminating already. The kubelet removes their objects
// when nothing of them is left.
func (k *Kubelet) endAll(ctx context.Context, grace *int64) (left []*v1.Pod, err error) {
	pods, err := client.List[*v1.Pod](ctx, k.client, k.here())
	if err != nil {
		return nil, fmt.Errorf("listing the Pods: %w", err)
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil && (grace == nil || *p.DeletionGracePeriodSeconds <= soonest) {
			continue
		}
		ask := grace
		if grace != nil { // zero would remove the object before the kubelet has ended the Pod
			ask = new(soonest)
		}
		if err := k.client.Delete(ctx, p, ask); err != nil && !errors.Is(err, fault.NotFound) {
			return nil, fmt.Errorf("ending Pod %q: %w", p.Name, err)
		}
	}
	return pods, nil
}

// podNames lists the Pods briefly, for people.
func podNames(pods []*v1.Pod) string {
	const most = 5
	var all []string
	for _, p := range pods[:min(most, len(pods))] {
		all = append(all, fmt.Sprintf("Pod %s/%s", p.Namespace, p.Name))
	}
	if more := len(pods) - most; more > 0 {
		all = append(all, fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}

// soonest is the shortest grace period, in seconds, with which a Pod is still
// terminated in order.
const soonest = int64(1)

// deleteClaims deletes all claims. It retries for a while if a driver is unavailable.
func (k *Kubelet) deleteClaims(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainForced)
	defer cancel()
	claims, err := client.List[*v1.PersistentVolumeClaim](ctx, k.client, "")
	errs := []error{err}
	for _, c := range claims {
		err := k.deleteClaim(ctx, c)
		for n := 1; err != nil && n < 5 && ctx.Err() == nil; n++ {
			time.Sleep(pod.Backoff(n, 50*time.Millisecond, time.Second))
			err = k.deleteClaim(ctx, c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("deleting claim %q: %w", c.Namespace+"/"+c.Name, err))
		}
	}
	return errors.Join(errs...)
}

package kubelet

import (
	"context"
	"errors"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// podCache holds the Pods of the kubelet as the API last reported them. They are shared
// and must not be changed. It is safe for concurrent use.
type podCache struct {
	mu      sync.Mutex
	pods    map[types.UID]*v1.Pod
	changed chan struct{} // closed and replaced at each change
}

func newPodCache() *podCache {
	return &podCache{pods: map[types.UID]*v1.Pod{}, changed: make(chan struct{})}
}

func (c *podCache) set(p *v1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods[p.UID] = p
	c.wake()
}

func (c *podCache) remove(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, uid)
	c.wake()
}

func (c *podCache) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *podCache) list() []*v1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*v1.Pod, 0, len(c.pods))
	for _, p := range c.pods {
		list = append(list, p)
	}
	return list
}

// get returns the Pod, or nil, and a channel that is closed at the next change of any
// Pod.
func (c *podCache) get(uid types.UID) (*v1.Pod, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[uid], c.changed
}

// pod returns a Pod of this node from the API, or as last seen if the API is
// unavailable; nil if there is none.
func (k *Kubelet) pod(ctx context.Context, namespace, name string) *v1.Pod {
	var p v1.Pod
	err := k.client.Get(ctx, namespace, name, &p)
	switch {
	case err == nil && p.Spec.NodeName == k.config.NodeName:
		return &p
	case err == nil, errors.Is(err, fault.NotFound):
		return nil
	}
	for _, p := range k.pods.list() {
		if p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	return nil
}

// ended returns a channel that is closed when the container instance has ended
// according to the Pod's recorded status, or when ctx ends.
func (k *Kubelet) ended(ctx context.Context, uid types.UID, container string, attempt uint32) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			p, changed := k.pods.get(uid)
			if p == nil || instanceEnded(&p.Status, container, int32(attempt)) { //nolint:gosec // restarts are fewer
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

func instanceEnded(s *v1.PodStatus, container string, attempt int32) bool {
	for _, list := range pod.Statuses(s) {
		for i := range list {
			if c := &list[i]; c.Name == container {
				return c.RestartCount > attempt || c.State.Terminated != nil ||
					c.State.Waiting != nil && c.LastTerminationState.Terminated != nil
			}
		}
	}
	return false
}

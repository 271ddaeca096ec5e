package kubelet

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/store"
)

// ended returns a channel that is closed when the container instance has ended
// by the Pod's recorded status, or when ctx ends.
func (k *Kubelet) ended(ctx context.Context, uid types.UID, container string, attempt uint32) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		events, err := k.store.Watch(ctx, &v1.Pod{})
		if err != nil {
			return
		}
		there := false
		for e := range events {
			switch p, _ := e.Object.(*v1.Pod); {
			case e.Type == store.Synced && !there:
				return
			case p == nil || p.UID != uid:
			case e.Type == store.Deleted || instanceEnded(&p.Status, container, int32(attempt)):
				return
			default:
				there = true
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

package store

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Pods returns all Pods.
func (s *Store) Pods() []*v1.Pod { return List[*v1.Pod](s, "") }

// SetStatus records the status of the Pod with the uid. It is durable at once
// when the phase becomes terminal, because a finished Pod stays finished, and
// within a moment otherwise. It returns fault.NotFound when the Pod is gone.
func (s *Store) SetStatus(_ context.Context, pod types.NamespacedName, uid types.UID, status v1.PodStatus) error {
	s.write.Lock()
	defer s.write.Unlock()
	r := ref{"Pod", pod.String()}
	have, ok := s.at(r).(*v1.Pod)
	if !ok || have.UID != uid {
		return fault.NotFound.Errorf("Pod %q with uid %q does not exist", pod, uid)
	}
	next := have.DeepCopy()
	next.Status = status
	// A disk that takes no writes does not set resourceVersions aside either: then
	// statuses wait for it, or a number could be given out twice.
	if terminal(status.Phase) && !terminal(have.Status.Phase) || s.next() >= s.reserved {
		return s.put(r, next, Modified)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next.ResourceVersion = formatRevision(s.revision + 1)
	s.swap(r, next, s.revision+1, Modified)
	s.lazy[r] = struct{}{}
	s.later()
	return nil
}

func terminal(phase v1.PodPhase) bool { return phase == v1.PodSucceeded || phase == v1.PodFailed }

// End marks the Pod as ending, with a grace in seconds, nil for its own
// terminationGracePeriodSeconds. On a Pod that ends already the grace can only
// shrink. The Pod is deleted by the kubelet when nothing of it is left. It
// returns fault.NotFound when there is no such Pod.
func (s *Store) End(_ context.Context, pod types.NamespacedName, grace *int64) error {
	s.write.Lock()
	defer s.write.Unlock()
	r := ref{"Pod", pod.String()}
	have, ok := s.at(r).(*v1.Pod)
	if !ok {
		return fault.NotFound.Errorf("Pod %q does not exist", pod)
	}
	seconds := int64(30)
	switch {
	case grace != nil:
		seconds = max(*grace, 0)
	case have.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *have.Spec.TerminationGracePeriodSeconds
	}
	// deletionTimestamp is when the grace is over, as in the Kubernetes API.
	at := metav1.NewTime(time.Now().Add(time.Duration(seconds) * time.Second))
	if d := have.DeletionTimestamp; d != nil && !at.Before(d) {
		return nil
	}
	next := have.DeepCopy()
	next.DeletionTimestamp, next.DeletionGracePeriodSeconds = &at, &seconds
	next.Generation++
	return s.put(r, next, Modified)
}

package simulation_test

import (
	"context"
	"encoding/json"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// lazyDelay is how long a status may be lost by a crash, as in kubelet/api.
const lazyDelay = 250 * time.Millisecond

// store holds the one Pod that has the life's name. Like the kubelet's store it
// keeps a status for a moment before it is durable, unless the Pod has finished.
// life.mu guards it.
type store struct {
	life *life
	pod  *v1.Pod // nil for none; never changed in place
	disk *v1.Pod
}

// put replaces the Pod durably and tells the process. The caller does not hold
// life.mu.
func (s *store) put(p *v1.Pod) {
	s.life.mu.Lock()
	s.pod, s.disk = p, p
	if p != nil {
		s.life.rules.object(p)
	}
	process := s.life.process
	s.life.mu.Unlock()
	if process != nil && p != nil {
		process.manager.Update(p)
	}
}

func (s *store) get() *v1.Pod {
	s.life.mu.Lock()
	defer s.life.mu.Unlock()
	return s.pod
}

// end marks the Pod as ending, as a DELETE of kubelet/api does.
func (s *store) end(grace int64) {
	p := s.get()
	if p == nil {
		return
	}
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	if d := p.DeletionTimestamp; d != nil && !at.Before(d) {
		return
	}
	p = p.DeepCopy()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	s.put(p)
}

// remove removes the object, whatever runs.
func (s *store) remove() {
	p := s.get()
	if p == nil {
		return
	}
	s.put(nil)
	s.life.mu.Lock()
	process := s.life.process
	s.life.rules.pods[p.UID].taken(time.Now(), process != nil)
	s.life.mu.Unlock()
	if process != nil {
		process.manager.Gone(p)
	}
}

// crash loses what is not durable yet. What is goes through its encoding, which
// keeps whole seconds only. The caller holds life.mu.
func (s *store) crash() {
	s.pod = nil
	if s.disk == nil {
		return
	}
	data, err := json.Marshal(s.disk)
	p := &v1.Pod{}
	if err == nil {
		err = json.Unmarshal(data, p)
	}
	if err != nil {
		s.life.violate("simulation", "encoding the Pod: %v", err)
	}
	s.pod, s.disk = p, p
}

// objects is the store as one process sees it.
type objects struct{ *process }

func (o objects) SetStatus(ctx context.Context, p *v1.Pod, was, now *v1.PodStatus) error {
	s, uid, status := o.life.store, p.UID, *now
	err := o.call(ctx, request{
		what: "status", about: string(uid) + " " + string(status.Phase), most: 2 * time.Millisecond, local: true,
		effect: func(bool) error {
			if s.pod == nil || s.pod.UID != uid {
				return fault.NotFound.Errorf("there is no Pod with uid %q", uid)
			}
			if have := &s.pod.Status; !equality.Semantic.DeepEqual(have, was) && !equality.Semantic.DeepEqual(have, now) {
				o.life.violate("recording", "a change of a status that is not the recorded one")
			}
			o.life.rules.status(uid, &status)
			next := *s.pod
			next.Status = status
			s.pod = &next
			if terminal(status.Phase) {
				s.flush()
				return nil
			}
			time.AfterFunc(lazyDelay, func() {
				s.life.mu.Lock()
				defer s.life.mu.Unlock()
				s.flush()
			})
			return nil
		},
	})
	if p := s.get(); p != nil && p.UID == uid && !o.dead() {
		o.manager.Update(p)
	}
	return err
}

// flush makes durable what is there. The caller holds life.mu.
func (s *store) flush() {
	s.disk = s.pod
	if s.pod != nil {
		s.life.rules.pods[s.pod.UID].durable()
	}
}

func terminal(phase v1.PodPhase) bool { return phase == v1.PodSucceeded || phase == v1.PodFailed }

// Remove removes the object of an ended Pod.
func (o objects) Remove(ctx context.Context, p *v1.Pod) error {
	s := o.life.store
	return o.call(ctx, request{
		what: "remove object", about: string(p.UID), most: 5 * time.Millisecond, local: true,
		effect: func(bool) error {
			o.life.rules.removed(p.UID)
			if s.pod != nil && s.pod.UID == p.UID {
				s.pod, s.disk = nil, nil
			}
			return nil
		},
	})
}

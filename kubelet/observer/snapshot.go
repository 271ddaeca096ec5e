package observer

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// entry is the state of one sandbox or container in a list.
type entry struct {
	pod   types.UID
	state int32
}

// snapshot is the last list. It is shared by the reader of events and the
// lister.
type snapshot struct {
	mu      sync.Mutex
	entries map[string]entry
}

// replace stores the new list and returns the Pods that differ in it.
func (s *snapshot) replace(now map[string]entry) map[types.UID]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := map[types.UID]bool{}
	for id, e := range now {
		if s.entries[id] != e {
			changed[e.pod] = true
		}
	}
	for id, e := range s.entries {
		if _, still := now[id]; !still {
			changed[e.pod] = true
		}
	}
	s.entries = now
	return changed
}

// saw adds what an observation of one Pod found. Otherwise, if something was seen only
// then, between two lists, nobody would notice its disappearance.
func (s *snapshot) saw(uid types.UID, seen map[string]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == nil {
		s.entries = map[string]entry{}
	}
	for id, state := range seen {
		s.entries[id] = entry{uid, state}
	}
}

// owner returns the Pod that a listed ID belongs to.
func (s *snapshot) owner(id string) (types.UID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[id]
	return e.pod, ok
}

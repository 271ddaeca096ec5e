package cnisuite

import (
	"context"
	"slices"
	"sync"

	"github.com/nodekit-project/nodekit/conformance"
)

// spoken is what the rules of one suite have learnt of the versions that plugins
// speak, so that not each has to ask. It may be used concurrently; a nil one knows
// nothing.
type spoken struct {
	mu       sync.Mutex
	versions map[string][]string // by executable and set-up
}

func (s *spoken) key(t *Target) string { return t.Binary + "\x00" + t.Setup }

// of returns the versions that the target and the suite have in common.
func (s *spoken) of(t *Target) (versions []string, known bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	versions, known = s.versions[s.key(t)]
	return slices.Clone(versions), known
}

// note keeps the answer of a VERSION that succeeded.
func (s *spoken) note(t *Target, versions []string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.versions == nil {
		s.versions = map[string][]string{}
	}
	s.versions[s.key(t)] = versions
}

// in lets a rule's check use it.
func (s *spoken) in(check func(context.Context, *conformance.Input[Target]) error) func(context.Context, *conformance.Input[Target]) error {
	return func(ctx context.Context, in *conformance.Input[Target]) error {
		in.Target.spoken = s
		return check(ctx, in)
	}
}

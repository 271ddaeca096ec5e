package cribench

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// A run without crun leaves the machine as it is: for crun a controller would change
// its hierarchy, and crun begin to work, for all who look for an OCI runtime meanwhile.
func TestUses(t *testing.T) {
	for sides, want := range map[string]bool{"": true, "nodekit": true, "containerd, crun": true, "nodekit, runc": false, "mine": false} {
		l := &lab{}
		if sides != "" {
			l.Sides = []string{sides}
		}
		if got := l.uses("crun"); got != want {
			t.Errorf("--sides %q uses crun: %v, want %v", sides, got, want)
		}
	}
}

// TestIdleShare: the share of idle time between two looks at the processors.
func TestIdleShare(t *testing.T) {
	before, now := procstat.CPU{Busy: 35, Idle: 70, Wait: 5}, procstat.CPU{Busy: 57, Idle: 147, Wait: 6}
	if got := idleShare(before, now); got != 0.77 {
		t.Errorf("%v idle", got)
	}
	if got := idleShare(now, now); got != 0 {
		t.Errorf("at once: %v idle", got)
	}
	if err := quiet(t.Context()); err != nil {
		t.Error(err)
	}
}

package cribench

import "testing"

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

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

// TestIdleSince: the share of idle time between two looks at /proc/stat.
func TestIdleSince(t *testing.T) {
	before, err := parseTimes("cpu  10 0 20 70 5 1 2 2 9 9\ncpu0 1 2 3\n")
	if err != nil || before != (times{70, 110}) {
		t.Fatalf("%v, %v", before, err)
	}
	now, err := parseTimes("cpu  11 0 21 147 6 1 2 22 9 9\n")
	if got := now.idleSince(before); err != nil || got != 0.77 {
		t.Errorf("%v, %v: %v idle", now, err, got)
	}
	if got := now.idleSince(now); got != 0 {
		t.Errorf("at once: %v idle", got)
	}
	if _, err := parseTimes("intr 1 2"); err == nil {
		t.Error("another line is read as one of processors")
	}
	if err := quiet(t.Context()); err != nil {
		t.Error(err)
	}
}

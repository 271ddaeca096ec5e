package oci

import "testing"

// TestDoubt: after a start that failed nothing is left out for that OCI runtime any
// more, until it has shown again that it takes a program.
func TestDoubt(t *testing.T) {
	one, other := installed{path: "/bin/one"}, installed{path: "/bin/other"}
	f := filters{heeding: map[installed]bool{one: true, other: true}}
	f.doubt(engine{path: one.path})
	if f.heeding[one] || !f.heeding[other] {
		t.Errorf("heeding: %v", f.heeding)
	}
	(&filters{}).doubt(engine{path: one.path})
}

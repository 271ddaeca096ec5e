package cniname_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/cniname"
)

func TestValid(t *testing.T) {
	for _, good := range []string{"a", "Z", "0", "a-b_c.d", "0123456789abcdef", "x..", "x-"} {
		if !cniname.Valid(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "a\x00", "aé", "@"} {
		if cniname.Valid(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

package portmap

import "testing"

// TestDigest: who changes the rules changes their tag. No configuration changes them.
func TestDigest(t *testing.T) {
	for _, c := range []*Config{{}, {NFTTable: "other", MasqAll: true}} {
		rules := table(c)
		if got, err := rules.Digest(); err != nil || got != digest || rules.Tag != digest {
			t.Errorf("the description's digest is %q, its tag %q; rules_linux.go says %q (%v)", got, rules.Tag, digest, err)
		}
	}
}

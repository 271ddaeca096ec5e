package bridge

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/nft"
)

// TestDigests: who changes the rules changes their tag.
func TestDigests(t *testing.T) {
	nameless, named := &Config{}, &Config{Bridge: "cni0"}
	for _, c := range []struct {
		rules       *nft.Ruleset
		digest, tag string
	}{
		{describeMasquerading(nameless), masqueradingDigest, masqueradingDigest + " "},
		{spoofChecking(nameless), spoofCheckingDigest, spoofCheckingDigest},
		{spoofChecking(named), spoofCheckingDigest, spoofCheckingDigest},
	} {
		digest, err := c.rules.Digest()
		if err != nil || digest != c.digest || c.rules.Tag != c.tag {
			t.Errorf("the description's digest is %q, its tag %q; rules_linux.go says %q (%v)", digest, c.rules.Tag, c.digest, err)
		}
	}
	digest, err := describeMasquerading(named).Digest()
	if tag := describeMasquerading(named).Tag; err != nil || digest == masqueradingDigest || tag != masqueradingDigest+" cni0" {
		t.Errorf("the bridge's name does not matter: %q, tag %q (%v)", digest, tag, err)
	}
}

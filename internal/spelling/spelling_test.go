package spelling_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/spelling"
)

func TestMeant(t *testing.T) {
	keys := []string{"isGateway", "ipMasq", "mtu"}
	for word, want := range map[string]string{
		"isGatway":  ` (did you mean "isGateway"?)`,
		"ISGATEWAY": ` (did you mean "isGateway"?)`,
		"ipmask":    ` (did you mean "ipMasq"?)`,
		"vlan":      "",
		"":          "",
	} {
		if got := spelling.Meant(word, keys); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

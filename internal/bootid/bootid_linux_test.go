package bootid_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/bootid"
)

func TestRead(t *testing.T) {
	first, err := bootid.Read()
	second, again := bootid.Read()
	if len(first) != 36 || first != second || err != nil || again != nil {
		t.Errorf("%q, %v and then %q, %v", first, err, second, again)
	}
}

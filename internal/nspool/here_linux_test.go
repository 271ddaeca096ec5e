package nspool_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspool"
)

// TestHere: a pool asks for the thread's namespace, and one that keeps nothing does not.
func TestHere(t *testing.T) {
	var none *nspool.Pool[string]
	if id, err := none.Here(); err != nil || id != (netns.ID{}) {
		t.Errorf("no pool: %v, %v", id, err)
	}
	want, werr := netns.CurrentID()
	if id, err := new(nspool.Pool[string]).Here(); err != nil || werr != nil || id != want || id == (netns.ID{}) {
		t.Errorf("%v, %v; want %v, %v", id, err, want, werr)
	}
}

package nspool_test

import (
	"slices"
	"testing"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspool"
)

func TestPool(t *testing.T) {
	a, b := netns.ID{Dev: 1, Ino: 1}, netns.ID{Dev: 1, Ino: 2}
	p := new(nspool.Pool[string])
	take := func(ns netns.ID, want string) {
		t.Helper()
		if it, ok := p.Take(ns); it != want || ok != (want != "") {
			t.Errorf("it takes %q, %v out, want %q", it, ok, want)
		}
	}
	take(a, "")
	p.Put(a, "a1")
	p.Put(b, "b1")
	p.Put(a, "a2")
	take(a, "a2")
	take(a, "a1")
	take(a, "")
	put := func(ns netns.ID, it, over string) {
		t.Helper()
		if got, full := p.Put(ns, it); got != over || full != (over != "") {
			t.Errorf("%q goes in, and %q, %v comes out, want %q", it, got, full, over)
		}
	}
	for range nspool.Max - 1 {
		put(a, "more", "")
	}
	put(a, "last", "b1") // of another namespace
	put(a, "one too many", "one too many")
	put(b, "b2", "more") // the oldest
	take(b, "b2")
	take(a, "last")
	if rest := p.Close(); len(rest) != nspool.Max-2 || slices.Contains(rest, "b2") {
		t.Errorf("%q were left", rest)
	}
	put(b, "late", "late")
	if len(p.Close()) > 0 {
		t.Error("a closed pool keeps things")
	}
	take(b, "")
}

func TestNilPool(t *testing.T) {
	var p *nspool.Pool[string]
	_, ok := p.Take(netns.ID{})
	if over, full := p.Put(netns.ID{}, "it"); ok || over != "it" || !full || len(p.Close()) > 0 {
		t.Error("a nil pool keeps things")
	}
}

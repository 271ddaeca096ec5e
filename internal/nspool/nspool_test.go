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
	for i := range nspool.Max {
		if kept := p.Put(a, "more"); kept != (i < nspool.Max-1) { // b1 is there
			t.Errorf("it keeps one more beside %d: %v", i+1, kept)
		}
	}
	take(b, "b1")
	if rest := p.Close(); len(rest) != nspool.Max-1 || slices.Contains(rest, "b1") {
		t.Errorf("%q were left", rest)
	}
	if p.Put(b, "late") || len(p.Close()) > 0 {
		t.Error("a closed pool keeps things")
	}
	take(b, "")
}

func TestNilPool(t *testing.T) {
	var p *nspool.Pool[string]
	if _, ok := p.Take(netns.ID{}); ok || p.Put(netns.ID{}, "") || len(p.Close()) > 0 {
		t.Error("a nil pool keeps things")
	}
}

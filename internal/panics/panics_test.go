package panics_test

import (
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/panics"
)

type node struct{ next *node }

func nilMap(m map[string]int) { m["x"] = 1 }

func nilPointer(n *node) *node { return n.next.next }

func index(s []int, i int) int { return s[i] }

// recovered returns the panic of f.
func recovered(f func()) (p *panics.Panic) {
	defer func() { p = panics.Of(recover()) }()
	f()
	return nil
}

func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		f           func()
		value, call string
	}{
		"panic":       {func() { panic("oh") }, "oh", "TestOf.func"},
		"nil map":     {func() { nilMap(nil) }, "nil map", "nilMap"},
		"nil pointer": {func() { nilPointer(&node{}) }, "nil pointer", "nilPointer"},
		"index":       {func() { index(nil, 3) }, "out of range", "index"},
		"in a defer": {func() {
			defer func() { nilMap(nil) }()
			panic("first")
		}, "nil map", "nilMap"},
		"carried": {func() { panic(elsewhere(func() { nilMap(nil) })) }, "nil map", "nilMap"},
	} {
		p := recovered(c.f)
		first, _, _ := strings.Cut(p.Stack(), " < ")
		if !strings.Contains(p.String(), c.value) || !strings.Contains(first, c.call) || !strings.HasPrefix(p.Place(), "panics_test.go:") {
			t.Errorf("%s: %v in %q at %s", name, p.Value, first, p.Place())
		}
	}
}

// elsewhere returns the panic of f on another goroutine.
func elsewhere(f func()) *panics.Panic {
	p := make(chan *panics.Panic)
	go func() { p <- recovered(f) }()
	return <-p
}

func TestBounds(t *testing.T) {
	var deep func(int)
	deep = func(n int) {
		if n == 0 {
			panic("deep")
		}
		deep(n - 1)
	}
	if p := recovered(func() { deep(1000) }); len(p.Calls) > 16 {
		t.Errorf("%d calls", len(p.Calls))
	}
	if got := (&panics.Panic{Value: "x"}).Place(); got != "an unknown place" {
		t.Errorf("without calls: %q", got)
	}
}

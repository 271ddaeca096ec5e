package hostlocal_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni/hostlocal"
)

func (p *pool) believed() bool {
	p.t.Helper()
	ok, err := hostlocal.IndexBelieved(p.path(""))
	if err != nil {
		p.t.Fatal(err)
	}
	return ok
}

// TestIndexIsBelieved between calls of the plugin, and not behind anybody else.
func TestIndexIsBelieved(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}]]`)
	p.add("x")
	p.add("y")
	if !p.believed() {
		t.Fatal("the index is not believed although nobody else was there")
	}
	for what, act := range map[string]func(){
		"creating":  func() { p.write("10.0.0.50", "z\r\neth0") },
		"removing":  func() { os.Remove(p.path("10.0.0.40")) },
		"renaming":  func() { os.Rename(p.path("10.0.0.3"), p.path("10.0.0.41")) },
		"rebooting": func() { p.reboot("another"); p.add("x") },
	} {
		p.plugin = hostlocal.Plugin()
		p.write("10.0.0.40", "z\r\neth0")
		p.write("10.0.0.3", "y\r\neth0")
		p.add("x")
		if !p.believed() {
			t.Fatalf("before %s: the index is not believed", what)
		}
		act()
		if p.believed() {
			t.Errorf("after %s the index is still believed", what)
		}
		p.add("x")
	}
}

// TestDamagedIndex: no byte of the index, wrong or missing, has a consequence.
func TestDamagedIndex(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24","rangeEnd":"10.0.0.41"}],[{"subnet":"fd00::/64"}]]`)
	for i := range 30 {
		p.add(fmt.Sprint("c", i))
	}
	index, err := os.ReadFile(p.path(".index"))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		bad := slices.Clone(index)
		if round%10 == 0 {
			bad = bad[:random.IntN(len(bad))]
		} else {
			for range 1 + random.IntN(20) {
				bad[random.IntN(len(bad))] ^= byte(1 << random.IntN(8))
			}
		}
		f, err := os.OpenFile(p.path(".index"), os.O_WRONLY|os.O_TRUNC, 0)
		if err == nil {
			_, err = f.Write(bad)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		id := random.IntN(30)
		want := fmt.Sprintf("10.0.0.%d/24 via 10.0.0.1, fd00::%x/64 via fd00::1", id+2, id+2)
		if got := p.add(fmt.Sprint("c", id)); got != want {
			t.Fatalf("round %d: c%d has %s, want %s", round, id, got, want)
		}
		p.add("new")
		p.del("new")
		if n := len(strings.Fields(p.reserved())); n != 60 {
			t.Fatalf("round %d: %d reservations", round, n)
		}
		if index, err = os.ReadFile(p.path(".index")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIndexGrows: as many as a /22 and beyond one page, in and out, at random.
func TestIndexGrows(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/22"},{"subnet":"10.9.9.0/29"}]]`)
	random := rand.New(rand.NewPCG(1, 2))
	has := map[string]string{}
	for range 1500 {
		id := fmt.Sprint("c", random.IntN(700))
		switch got := has[id]; {
		case random.IntN(3) > 0:
			addr := p.add(id)
			if got != "" && got != addr {
				t.Fatalf("%s has %s and then %s", id, got, addr)
			}
			has[id] = addr
		default:
			p.del(id)
			delete(has, id)
		}
	}
	if n := len(strings.Fields(p.reserved())); n != len(has) || n < 200 {
		t.Errorf("%d reservations for %d containers", n, len(has))
	}
	if !p.believed() {
		t.Error("the index is not believed")
	}
	for id := range has {
		p.del(id)
	}
	if got := p.reserved(); got != "" {
		t.Errorf("left: %s", got)
	}
}

package nft_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func newRuleset(t *testing.T) *nft.Ruleset {
	testenv.Require(t, testenv.Root)
	rs := &nft.Ruleset{Table: strings.ToLower(t.Name()), Sets: []nft.Set{{Name: "a", Key: []nftables.SetDatatype{nftables.TypeIPAddr}}}}
	t.Cleanup(func() {
		if err := nft.Delete(rs.Table); err != nil {
			t.Error(err)
		}
	})
	return rs
}

func element(owner string, n int) nft.Element {
	return nft.Element{Set: "a", Key: binary.BigEndian.AppendUint32(nil, uint32(n)), Owner: owner}
}

func left(t *testing.T, rs *nft.Ruleset) int {
	t.Helper()
	all, err := rs.Elements()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestRemoveManyIsOneWait: the kernel makes who removes wait for a grace
// period, which is one for each transaction and must not be one for each element.
func TestRemoveManyIsOneWait(t *testing.T) {
	rs := newRuleset(t)
	const many = 100
	for i := range many + 1 {
		if err := rs.Add(element(fmt.Sprintf("n/c%d", i%2), i)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before, err := c.Generation()
	if err != nil {
		t.Fatal(err)
	}
	if err := rs.Remove(func(owner string) bool { return owner == "n/c1" }); err != nil {
		t.Fatal(err)
	}
	if after, err := c.Generation(); err != nil || after != before+1 {
		t.Errorf("removing %d elements took %d transactions, %v", many/2, after-before, err)
	}
	if got := left(t, rs); got != many/2+1 {
		t.Errorf("%d elements are left", got)
	}
}

// TestRemoveThousands: after a node was away its GC may find very many, with long
// names.
func TestRemoveThousands(t *testing.T) {
	rs := newRuleset(t)
	const many, at = 9000, 1000
	for first := 0; first < many; first += at {
		var elements []nft.Element
		for i := range at {
			elements = append(elements, element("n/"+strings.Repeat("c", 64)+"/eth0", first+i))
		}
		if err := rs.Add(elements...); err != nil {
			t.Fatal(err)
		}
	}
	if got := left(t, rs); got != many {
		t.Fatalf("%d elements were added", got)
	}
	if err := rs.Remove(func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	if got := left(t, rs); got != 0 {
		t.Errorf("%d elements are left", got)
	}
}

func TestRemoveTogether(t *testing.T) {
	rs := newRuleset(t)
	var elements []nft.Element
	for i := range 50 {
		elements = append(elements, element("n/c", i))
	}
	if err := rs.Add(elements...); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := rs.Remove(func(string) bool { return true }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := left(t, rs); got != 0 {
		t.Errorf("%d elements are left", got)
	}
}

// TestPutReplacesWhatAnotherLeft: the element of an owner that is gone must not
// keep its name on what belongs to a new one.
func TestPutReplacesWhatAnotherLeft(t *testing.T) {
	rs := newRuleset(t)
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, owner := range []string{"n/old", "n/new"} {
		if err := c.Put(nft.Group{Rules: rs, Elements: []nft.Element{element(owner, 1), element(owner, len(owner))}}); err != nil {
			t.Fatal(err)
		}
	}
	have, err := c.Get(rs, "a", element("", 1).Key, element("", 77).Key)
	if err != nil || have[0] == nil || have[0].Owner != "n/new" || have[1] != nil {
		t.Errorf("the kernel has %v, %v", have, err)
	}
}

// TestRemoveIsAllOrNothing: who lost a race for one element must not take the
// others, which may be a new owner's.
func TestRemoveIsAllOrNothing(t *testing.T) {
	rs := newRuleset(t)
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Add(nft.Group{Rules: rs, Elements: []nft.Element{element("n/c", 1)}}); err != nil {
		t.Fatal(err)
	}
	err = c.Remove(nft.Group{Rules: rs, Elements: []nft.Element{element("", 1), element("", 2)}})
	if !errors.Is(err, fault.NotFound) || left(t, rs) != 1 {
		t.Errorf("removing one that is not there: %v, and %d elements are left", err, left(t, rs))
	}
}

// TestDecideBesideABusyWriter: somebody else changes another table without a
// pause; the plan is not called without one, and comes through in the end, or its
// caller's time does.
func TestDecideBesideABusyWriter(t *testing.T) {
	rs := newRuleset(t)
	if err := rs.Define(); err != nil {
		t.Fatal(err)
	}
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const most, least = 20, 10 * time.Millisecond // the pauses take 60 ms, give or take 10
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	plans, pauses, planned := 0, time.Duration(0), time.Now()
	_, err = c.Decide(ctx, rs, func() (nft.Change, error) {
		pauses += time.Since(planned)
		defer func() { planned = time.Now() }()
		if plans++; plans == most {
			cancel()
		}
		// The writer is always faster than this plan.
		return nft.Change{Add: []nft.Element{element("n/c", 1)}}, rs.Add(element("n/other", 1000+plans))
	})
	if !errors.Is(err, context.Canceled) || plans != most || pauses < least {
		t.Errorf("%d plans with %s between them: %v", plans, pauses, err)
	}
	made, err := c.Decide(t.Context(), rs, func() (nft.Change, error) {
		if plans--; plans > 0 {
			return nft.Change{Add: []nft.Element{element("n/c", 1)}}, rs.Add(element("n/other", 2000+plans))
		}
		return nft.Change{Add: []nft.Element{element("n/c", 1)}}, nil
	})
	if err != nil || len(made.Add) != 1 {
		t.Errorf("made %v: %v", made, err)
	}
}

// TestRemovalMakesNoTable: DEL of what was never there leaves nothing.
func TestRemovalMakesNoTable(t *testing.T) {
	rs := newRuleset(t)
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Decide(t.Context(), rs, func() (nft.Change, error) { return nft.Change{Remove: []nft.Element{element("n/c", 1)}}, nil })
	if err == nil {
		t.Error("what is not there was removed")
	}
	if all := netnstest.Run(t, "", "nft", "list", "tables"); strings.Contains(all, rs.Table) {
		t.Errorf("there is a table now: %s", all)
	}
}

func BenchmarkAddRemove(b *testing.B) {
	testenv.Require(b, testenv.Root)
	rs := &nft.Ruleset{Table: "bench", Sets: []nft.Set{{Name: "a", Key: []nftables.SetDatatype{nftables.TypeIPAddr}}}}
	c, err := nft.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		g := nft.Group{Rules: rs, Elements: []nft.Element{element("n/c", 1)}}
		if err := errors.Join(c.Add(g), c.Remove(g)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestCutOff: rules that go on to others go first; where there are none, all do. What
// is not in a base chain stays.
func TestCutOff(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	ns := netnstest.New(t)
	netnstest.Run(t, ns, "nft", `add table ip a; add chain ip a base { type filter hook input priority 0; }; add chain ip a inner;
		add rule ip a inner accept; add rule ip a base jump inner; add rule ip a base goto inner; add rule ip a base ip saddr 192.0.2.2 drop;
		add set ip a some { type ipv4_addr; elements = { 192.0.2.1 }; }`)
	for _, want := range []struct {
		rules int
		left  bool
	}{{2, true}, {1, false}, {0, false}} {
		var rules int
		if err := netns.Do(ns, func() (err error) { rules, err = nft.CutOff(); return err }); err != nil || rules != want.rules {
			t.Errorf("%d rules, %v, want %d", rules, err, want.rules)
		}
		ruleset := netnstest.Run(t, ns, "nft", "list", "ruleset")
		if strings.Contains(ruleset, "jump") || strings.Contains(ruleset, "goto") || strings.Contains(ruleset, "192.0.2.2") != want.left {
			t.Errorf("the base chain is: %s", ruleset)
		}
		for _, word := range []string{"chain base", "accept", "192.0.2.1"} {
			if !strings.Contains(ruleset, word) {
				t.Errorf("%q is gone: %s", word, ruleset)
			}
		}
	}
}

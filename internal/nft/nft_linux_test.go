package nft_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"

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
// period, which must not be one for each element.
func TestRemoveManyIsOneWait(t *testing.T) {
	rs := newRuleset(t)
	const many = 100
	for i := range many + 1 {
		if err := rs.Add(element(fmt.Sprintf("n/c%d", i%2), i)); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if err := rs.Remove(func(owner string) bool { return owner == "n/c1" }); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("removing %d elements took %s", many/2, took)
	}
	if got := left(t, rs); got != many/2+1 {
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

func TestMeanwhileIsAlwaysDone(t *testing.T) {
	rs := newRuleset(t) // which does not exist
	done := false
	err := rs.RemoveDuring(func(string) bool { return true }, func() error { done = true; return nil })
	if err != nil || !done {
		t.Errorf("%v, %v", err, done)
	}
}

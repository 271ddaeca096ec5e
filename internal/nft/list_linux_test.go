package nft_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/nft"
)

// TestListAfterManyChanges lists sets that have just grown or shrunk by hundreds of
// elements, the others of which the kernel moves meanwhile.
func TestListAfterManyChanges(t *testing.T) {
	rs := newRuleset(t)
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const most, step = 3000, 500
	group := func(from, to int) nft.Group {
		g := nft.Group{Rules: rs}
		for n := from; n < to; n++ {
			g.Elements = append(g.Elements, element("n/c", n))
		}
		return g
	}
	twice, missing := 0, 0
	compare := func(from, to int) {
		list, err := c.List(rs)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, e := range list {
			count[string(e.Key)]++
		}
		twice += len(list) - len(count)
		missing += to - from - len(count)
	}
	for range 50 {
		for n := 0; n < most; n += step {
			if err := c.Add(group(n, n+step)); err != nil {
				t.Fatal(err)
			}
			compare(0, n+step)
		}
		for n := 0; n < most; n += step {
			if err := c.Remove(group(n, n+step)); err != nil {
				t.Fatal(err)
			}
			compare(n+step, most)
		}
	}
	if twice != 0 || missing != 0 {
		t.Errorf("in 600 lists %d elements stood twice and %d were missing", twice, missing)
	}
}

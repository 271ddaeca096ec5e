package leak_test

import (
	"encoding/binary"
	"testing"

	"github.com/google/nftables"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestLongSet looks at a set that has just grown or shrunk by hundreds of elements, the
// others of which the kernel moves meanwhile.
func TestLongSet(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		conn, err := nftables.New()
		must(t, err)
		table := conn.AddTable(&nftables.Table{Name: "long", Family: nftables.TableFamilyINet})
		set := &nftables.Set{Name: "s", Table: table, KeyType: nftables.TypeIPAddr}
		must(t, conn.AddSet(set, nil))
		must(t, conn.Flush())
		const most, step = 3000, 500
		elements := func(from int) (list []nftables.SetElement) {
			for n := from; n < from+step; n++ {
				list = append(list, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(n))})
			}
			return list
		}
		has := func(want int) {
			seen, err := leak.Take(only(leak.NFT, "long"))
			must(t, err)
			if got := len(seen.Names(leak.NFT)) - len([]string{"the table", "the set"}); got != want {
				t.Errorf("%d elements were seen of %d", got, want)
			}
		}
		for range 15 {
			for n := 0; n < most; n += step {
				must(t, conn.SetAddElements(set, elements(n)))
				must(t, conn.Flush())
				has(n + step)
			}
			for n := 0; n < most; n += step {
				must(t, conn.SetDeleteElements(set, elements(n)))
				must(t, conn.Flush())
				has(most - n - step)
			}
		}
	})
}

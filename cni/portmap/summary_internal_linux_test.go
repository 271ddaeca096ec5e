package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// until is a context that ends when it has been asked so often: what uses it ends as if by a
// kill, between two transactions.
type until struct {
	context.Context
	left *int
}

func (u until) Err() error {
	if *u.left--; *u.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestKilledBetweenTransactions: DEL without documents removes what several transactions
// were to make, or to take back.
func TestKilledBetweenTransactions(t *testing.T) {
	testenv.Require(t, testenv.Root)
	c := &Config{NFTTable: "pm-killed"}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	rules, owner := table(c), nft.Owner("pm", "many/eth0")
	t.Cleanup(func() {
		if err := rules.Delete(); err != nil {
			t.Error(err)
		}
	})
	var forwards []forward
	for n := range uint16(1700) { // two elements each, and four transactions
		forwards = append(forwards, forward{port{protocol: protoTCP, from: 10000 + n, to: 1 + n}, netip.MustParseAddr("10.55.0.9")})
	}
	wanted := c.elements(forwards, owner)
	for _, turns := range [][2]int{{1, 0}, {2, 0}, {3, 0}, {9, 1}, {9, 2}, {9, 3}} { // of ADD, and of its undoing
		t.Run(fmt.Sprint(turns), func(t *testing.T) {
			err := (&plugin{}).connectedTo(rules, func(v *view) error {
				v.owner = owner
				made, err := v.conn.Decide(until{t.Context(), &turns[0]}, rules, func() (nft.Change, error) { return v.install(wanted) })
				return errors.Join(err, v.undo(until{t.Context(), &turns[1]}, made.Add))
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			env := map[string]string{"CNI_COMMAND": cni.CmdDel, "CNI_CONTAINERID": "many", "CNI_IFNAME": "eth0"}
			if _, err := cni.Invoke(t.Context(), Plugin(), env, []byte(`{"cniVersion":"1.1.0","name":"pm","type":"portmap","nftTable":"pm-killed"}`)); err != nil {
				t.Fatal(err)
			}
			if left, err := rules.Elements(); err != nil || len(left) > 0 {
				t.Errorf("%d elements are left, %v", len(left), err)
			}
		})
	}
}

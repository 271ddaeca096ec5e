package bridge_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// TestLostRulesComeBack: a runtime that never calls CHECK gets no container
// without the rules that its elements are for, and STATUS puts them back for
// those that run.
func TestLostRulesComeBack(t *testing.T) {
	n := newNetwork(t, map[string]any{"macspoofchk": true})
	a, b := netnstest.New(t), netnstest.New(t)
	raw, _ := n.add("a", a)
	table := "cni-" + n.config["bridge"].(string)
	lose := func() {
		netnstest.Run(t, "", "nft", "flush chain inet "+table+" postrouting; flush chain bridge "+table+" prerouting")
	}
	whole := func(after string) {
		t.Helper()
		masq := netnstest.Run(t, "", "nft", "list", "chain", "inet", table, "postrouting")
		spoof := netnstest.Run(t, "", "nft", "list", "chain", "bridge", table, "prerouting")
		if strings.Count(masq, "masquerade comment") != 2 || !strings.Contains(spoof, "drop") {
			t.Errorf("after %s: %s%s", after, masq, spoof)
		}
		if _, err := n.call("CHECK", "a", a, map[string]any{"prevResult": raw}); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
	}
	lose()
	n.add("b", b)
	whole("ADD")
	lose()
	if _, err := n.call("STATUS", "", "", nil); err != nil {
		t.Error(err)
	}
	whole("STATUS")
	n.del("a", a)
	n.del("b", b)
}

// TestManyAddresses: DEL finds the elements of every address.
func TestManyAddresses(t *testing.T) {
	for _, many := range []int{2, 17, 20} {
		var ips []map[string]any
		for i := range many {
			ips = append(ips, map[string]any{"address": fmt.Sprintf("10.%d.0.2/24", 100+i)})
		}
		n := newNetwork(t, map[string]any{"isDefaultGateway": false, "ipam": map[string]any{"type": "test-ipam", "ips": ips}})
		n.add("a", netnstest.New(t))
		if rest := n.rest(); rest != fmt.Sprintf("1 ports, %d elements, 1 addresses", many) {
			t.Error(rest)
		}
		n.del("a", "")
		if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
			t.Errorf("left of %d addresses: %s", many, rest)
		}
	}
}

package nft_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// versions returns two definitions of one table that differ in one rule alone.
func versions(t testing.TB) (older, newer *nft.Ruleset, c *nft.Conn) {
	testenv.Require(t, testenv.Root)
	define := func(verdict []expr.Any) *nft.Ruleset {
		rules := [][]expr.Any{append(nft.CameByOneOf("ports"), nft.Accept()...), append(nft.EntersBy("nowhere0"), verdict...)}
		return &nft.Ruleset{
			Table: strings.ToLower(t.Name()),
			Sets:  []nft.Set{{Name: "ports", Key: []nftables.SetDatatype{nftables.TypeIFName}}},
			Chains: []nft.Chain{
				{Name: "one", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw, Rules: rules},
				{Name: "two", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityRaw, Rules: rules},
			},
		}
	}
	c, err := nft.Open()
	if err != nil {
		t.Fatal(err)
	}
	older, newer = define(nft.Accept()), define(nft.Drop())
	t.Cleanup(func() {
		if err := errors.Join(older.Delete(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return older, newer, c
}

// TestRulesComeBack: whatever happened to the rules, who adds an element has them
// all, and the elements of others stay.
func TestRulesComeBack(t *testing.T) {
	older, rs, c := versions(t)
	first := nft.Element{Set: "ports", Key: nft.IfName("first0"), Owner: "n/a"}
	if err := c.Add(nft.Group{Rules: rs, Elements: []nft.Element{first}}); err != nil {
		t.Fatal(err)
	}
	for what, harm := range map[string]func() error{
		"one chain was flushed": func() error { netnstest.Run(t, "", "nft", "flush", "chain", "inet", rs.Table, "two"); return nil },
		"one chain was removed": func() error {
			netnstest.Run(t, "", "nft", "flush chain inet "+rs.Table+" one; delete chain inet "+rs.Table+" one")
			return nil
		},
		"another version was here": older.Define,
		"one rule is somebody's": func() error {
			netnstest.Run(t, "", "nft", "flush chain inet "+rs.Table+" two; add rule inet "+rs.Table+" two accept; add rule inet "+rs.Table+" two accept")
			return nil
		},
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if err := c.Verify(rs); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s: Verify says %v", what, err)
		}
		if err := c.Add(nft.Group{Rules: rs, Elements: []nft.Element{{Set: "ports", Key: nft.IfName("next0"), Owner: "n/b"}}}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := c.Verify(rs); err != nil {
			t.Errorf("%s: after an Add: %v", what, err)
		}
		if have, err := c.Get(rs, "ports", first.Key); err != nil || have[0] == nil {
			t.Errorf("%s: the first element is lost: %v", what, err)
		}
	}
}

// TestVerifyLeavesOthersAlone: a rule that somebody counts packets with is no
// loss, and stays.
func TestVerifyLeavesOthersAlone(t *testing.T) {
	_, rs, c := versions(t)
	if err := c.Ensure(rs); err != nil {
		t.Fatal(err)
	}
	netnstest.Run(t, "", "nft", "insert", "rule", "inet", rs.Table, "one", "counter")
	if err := errors.Join(c.Verify(rs), c.Ensure(rs)); err != nil {
		t.Error(err)
	}
	if now := netnstest.Run(t, "", "nft", "list", "table", "inet", rs.Table); !strings.Contains(now, "counter") {
		t.Errorf("the rule is gone: %s", now)
	}
}

// TestTagBesideDigest: rules of a version that had no constant for the same definition are
// not made anew; those of another definition are.
func TestTagBesideDigest(t *testing.T) {
	older, digested, c := versions(t)
	rs := &nft.Ruleset{Table: digested.Table, Sets: digested.Sets, Chains: digested.Chains, Tag: "constant"}
	if err := errors.Join(digested.Define(), c.Verify(rs), c.Ensure(rs)); err != nil {
		t.Error(err)
	}
	if now := netnstest.Run(t, "", "nft", "list", "table", "inet", rs.Table); strings.Contains(now, rs.Tag) {
		t.Errorf("the same rules were made anew: %s", now)
	}
	netnstest.Run(t, "", "nft", "flush", "chain", "inet", rs.Table, "two")
	if err := c.Verify(rs); !errors.Is(err, fault.NotFound) {
		t.Errorf("a flushed chain: %v", err)
	}
	if err := older.Define(); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(rs); !errors.Is(err, fault.NotFound) {
		t.Errorf("another definition: %v", err)
	}
	if err := errors.Join(c.Ensure(rs), c.Verify(rs)); err != nil {
		t.Error(err)
	}
	if now := netnstest.Run(t, "", "nft", "list", "table", "inet", rs.Table); strings.Count(now, `"nodekit constant"`) != 4 {
		t.Errorf("not the constant: %s", now)
	}
}

// TestMend makes no table, and says what it mended.
func TestMend(t *testing.T) {
	_, rs, c := versions(t)
	var words bytes.Buffer
	log := slog.New(slog.NewTextHandler(&words, nil))
	if err := c.Mend(rs, log); err != nil || words.Len() > 0 {
		t.Errorf("without a table: %v, %s", err, &words)
	}
	if err := c.Verify(rs); !errors.Is(err, fault.NotFound) {
		t.Errorf("Mend made a table: %v", err)
	}
	if err := c.Ensure(rs); err != nil {
		t.Fatal(err)
	}
	if err := c.Mend(rs, log); err != nil || words.Len() > 0 {
		t.Errorf("of a whole table: %v, %s", err, &words)
	}
	netnstest.Run(t, "", "nft", "flush", "table", "inet", rs.Table)
	if err := errors.Join(c.Mend(rs, log), c.Verify(rs)); err != nil || !strings.Contains(words.String(), "two") {
		t.Errorf("of a flushed table: %v, %s", err, &words)
	}
}

// TestTry tells what Ensure would fail at, and makes nothing.
func TestTry(t *testing.T) {
	_, rs, c := versions(t)
	impossible := &nft.Ruleset{Table: rs.Table, Bridge: true, Chains: []nft.Chain{
		{Name: "one", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
	}}
	if err := c.Try(rs); err != nil {
		t.Error(err)
	}
	if err := c.Try(impossible); err == nil || !strings.Contains(err.Error(), "type nat") {
		t.Errorf("a chain of an unknown type: %v", err)
	}
	if all := netnstest.Run(t, "", "nft", "list", "tables"); strings.Contains(all, rs.Table) {
		t.Errorf("left: %s", all)
	}
	if err := c.Ensure(rs); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Try(rs), c.Verify(rs)); err != nil {
		t.Errorf("of a table that there is: %v", err)
	}
}

func BenchmarkEnsure(b *testing.B) {
	_, rs, c := versions(b)
	for b.Loop() {
		if err := c.Ensure(rs); err != nil {
			b.Fatal(err)
		}
	}
}

package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/nodekit-project/nodekit/internal/redump"
)

// FlushAll removes every table of the network namespace, whoever created it, as `nft
// flush ruleset` does.
func FlushAll() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("removing every nftables table: %w", err)
	}
	return nil
}

// CutOff removes what leads to the network namespace's rules: in base chains, the
// rules that jump or go to other chains, or all rules if none does. It returns how
// many it removed. Everything else stays: other chains, sets and maps.
func CutOff() (rules int, err error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("opening nftables: %w", err)
	}
	gone, err := baseRules(conn)
	if err != nil {
		return 0, err
	}
	if jumps := slices.DeleteFunc(slices.Clone(gone), func(r *nftables.Rule) bool { return !goesOn(r) }); len(jumps) > 0 {
		gone = jumps
	}
	for _, rule := range gone {
		if err := conn.DelRule(rule); err != nil {
			return 0, fmt.Errorf("removing a rule of nftables table %q: %w", rule.Table.Name, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return 0, fmt.Errorf("removing rules of the base chains of nftables: %w", err)
	}
	return len(gone), nil
}

// baseRules returns the rules of all base chains, whoever created them.
func baseRules(conn *nftables.Conn) (all []*nftables.Rule, err error) {
	chains, err := redump.List(conn.ListChains)
	if err != nil {
		return nil, fmt.Errorf("listing the chains of every nftables table: %w", err)
	}
	for _, chain := range chains {
		if chain.Hooknum == nil {
			continue
		}
		rules, err := redump.List(func() ([]*nftables.Rule, error) { return conn.GetRules(chain.Table, chain) })
		if err != nil {
			return nil, fmt.Errorf("listing chain %q of nftables table %q: %w", chain.Name, chain.Table.Name, err)
		}
		all = append(all, rules...)
	}
	return all, nil
}

// goesOn reports whether the rule leads to another chain.
func goesOn(rule *nftables.Rule) bool {
	return slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool {
		verdict, ok := e.(*expr.Verdict)
		return ok && (verdict.Kind == expr.VerdictJump || verdict.Kind == expr.VerdictGoto)
	})
}

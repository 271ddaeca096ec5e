package leak

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/redump"
)

// rules lists tables, chains, rules, named sets and their elements.
func rules(scope *Scope) (things, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := redump.List(conn.ListTables)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return make(things), nil // a kernel without nftables has none
	}
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, table := range tables {
		name := fmt.Sprintf("%s %s", table.Name, family(table.Family))
		if !scope.matches(NFT, name) {
			continue
		}
		found.add(name, "table "+name)
		look := &ruleset{conn, table, name, found}
		if err := errors.Join(look.chains(), look.sets()); err != nil {
			return nil, fmt.Errorf("of table %q: %w", name, err)
		}
	}
	return found, nil
}

// ruleset adds what is in one table to found.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	name  string
	found things
}

func (r *ruleset) chains() error {
	all, err := redump.List(func() ([]*nftables.Chain, error) { return r.conn.ListChainsOfTableFamily(r.table.Family) })
	if err != nil {
		return err
	}
	for _, chain := range all {
		if chain.Table.Name != r.table.Name {
			continue
		}
		name := fmt.Sprintf("%s chain %s", r.name, chain.Name)
		r.found.add(name, name)
		rules, err := redump.List(func() ([]nftRule, error) { return rulesOf(chain) })
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("chain %q: %w", chain.Name, err)
		}
		for _, rule := range rules {
			r.found.add(name+rule.id, fmt.Sprintf("%s rule %d (%s)", name, rule.handle, strings.Join(rule.words, " ")))
		}
	}
	return nil
}

func (r *ruleset) sets() error {
	all, err := redump.List(func() ([]*nftables.Set, error) { return r.conn.GetSets(r.table) })
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, set := range all {
		if set.Anonymous {
			continue // part of a rule
		}
		name := fmt.Sprintf("%s set %s", r.name, set.Name)
		r.found.add(name, name)
		elements, err := r.elements(set)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set %q: %w", set.Name, err)
		}
		for _, e := range elements {
			element := fmt.Sprintf("%s element %x", name, e.Key)
			r.found.add(element, element)
		}
	}
	return nil
}

// shortList is how many elements come in one part of a list.
const shortList = 100

// listTries is how often a long list is read at most.
const listTries = 20

// elements lists a set; a long one until its elements come in the same order twice:
// while the kernel moves the elements of a set that has grown or shrunk, a list in
// several parts may miss some (nft_rhash_walk in net/netfilter/nft_set_hash.c).
func (r *ruleset) elements(set *nftables.Set) ([]nftables.SetElement, error) {
	get := func() ([]nftables.SetElement, error) { return r.conn.GetSetElements(set) }
	before, err := redump.List(get)
	for range listTries {
		if err != nil || len(before) <= shortList {
			return before, err
		}
		var now []nftables.SetElement
		now, err = redump.List(get)
		if slices.EqualFunc(before, now, func(a, b nftables.SetElement) bool { return bytes.Equal(a.Key, b.Key) }) {
			return now, err
		}
		before = now
	}
	return before, err
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyARP:
		return "arp"
	case nftables.TableFamilyNetdev:
		return "netdev"
	case nftables.TableFamilyBridge:
		return "bridge"
	}
	return fmt.Sprintf("family%d", f)
}

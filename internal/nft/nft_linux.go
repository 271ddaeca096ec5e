package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Ruleset is a table of family inet.
type Ruleset struct {
	Table  string
	Sets   []Set
	Chains []Chain
}

// Set is a named set, or a map when Value is set. Key and Value are lists of
// types, which are concatenated; with Interval keys are ranges.
type Set struct {
	Name     string
	Key      []nftables.SetDatatype
	Value    []nftables.SetDatatype
	Interval bool
}

// Chain is a base chain with its rules.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority *nftables.ChainPriority
	Rules    [][]expr.Any
}

// Element is one element of a set or map. Each part of a concatenated key or
// value is padded to 4 bytes; Word does it.
type Element struct {
	Set    string
	Key    []byte
	KeyEnd []byte // the end of the range, in a set of intervals
	Value  []byte
	Owner  string
}

// Word pads one part of a concatenation.
func Word(part ...byte) []byte {
	return append(part[:len(part):len(part)], make([]byte, (4-len(part)%4)%4)...)
}

func (rs *Ruleset) table() *nftables.Table {
	return &nftables.Table{Name: rs.Table, Family: nftables.TableFamilyINet}
}

// set returns the library's form of a set. Its id only has to be unique within
// a transaction; set here it keeps the library from counting in a global.
func (rs *Ruleset) set(i int) (*nftables.Set, error) {
	s := rs.Sets[i]
	key, err := nftables.ConcatSetType(s.Key...)
	if err != nil {
		return nil, fmt.Errorf("set %q: %w", s.Name, err)
	}
	out := &nftables.Set{Table: rs.table(), Name: s.Name, ID: uint32(i + 1), KeyType: key, Concatenation: len(s.Key) > 1, Interval: s.Interval}
	if len(s.Value) > 0 {
		out.IsMap = true
		if out.DataType, err = nftables.ConcatSetType(s.Value...); err != nil {
			return nil, fmt.Errorf("map %q: %w", s.Name, err)
		}
	}
	return out, nil
}

// Add adds the elements, all or none. A table that is not there is made in the
// same transaction. An element that is there already stays with its owner; in a
// map one with another value is the error unix.EEXIST.
func (rs *Ruleset) Add(elements ...Element) error {
	err := rs.commit(func(c *nftables.Conn) error { return rs.addElements(c, elements) })
	if errors.Is(err, unix.ENOENT) {
		err = rs.commit(func(c *nftables.Conn) error {
			return errors.Join(rs.define(c), rs.addElements(c, elements))
		})
	}
	if err != nil {
		return fmt.Errorf("adding to nftables table %q: %w", rs.Table, err)
	}
	return nil
}

// Define makes the table as it is described, or mends its chains.
func (rs *Ruleset) Define() error {
	if err := rs.commit(rs.define); err != nil {
		return fmt.Errorf("defining nftables table %q: %w", rs.Table, err)
	}
	return nil
}

func (rs *Ruleset) define(c *nftables.Conn) error {
	t := c.AddTable(rs.table())
	for i := range rs.Sets {
		s, err := rs.set(i)
		if err != nil {
			return err
		}
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, ch := range rs.Chains {
		chain := c.AddChain(&nftables.Chain{Table: t, Name: ch.Name, Type: ch.Type, Hooknum: ch.Hook, Priority: ch.Priority})
		c.FlushChain(chain) // rules have no identity: adding them twice would double them
		for _, exprs := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs})
		}
	}
	return nil
}

func (rs *Ruleset) addElements(c *nftables.Conn, elements []Element) error {
	for i := range rs.Sets {
		s, err := rs.set(i)
		if err != nil {
			return err
		}
		var list []nftables.SetElement
		for _, e := range elements {
			if e.Set == s.Name {
				list = append(list, nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd, Val: e.Value, Comment: e.Owner})
			}
		}
		if len(list) > 0 {
			if err := c.SetAddElements(s, list); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove removes every element whose owner matches. It succeeds when there is
// none, or no table.
func (rs *Ruleset) Remove(matches func(owner string) bool) error {
	// The kernel's listing may miss an element while others come and go, so an
	// empty answer is asked for again.
	const tries = 3
	for range tries {
		all, err := rs.Elements()
		if err != nil {
			return err
		}
		var errs []error
		found := false
		for _, e := range all {
			if matches(e.Owner) {
				found = true
				errs = append(errs, rs.remove(e))
			}
		}
		if found {
			return errors.Join(errs...)
		}
	}
	return nil
}

func (rs *Ruleset) remove(e Element) error {
	err := rs.commit(func(c *nftables.Conn) error {
		for i := range rs.Sets {
			if rs.Sets[i].Name != e.Set {
				continue
			}
			s, err := rs.set(i)
			if err != nil {
				return err
			}
			return c.SetDeleteElements(s, []nftables.SetElement{{Key: e.Key, KeyEnd: e.KeyEnd}})
		}
		return nil
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing an element of %q from nftables table %q: %w", e.Owner, rs.Table, err)
	}
	return nil
}

// Elements returns what the sets and maps hold; nothing when there is no table.
func (rs *Ruleset) Elements() ([]Element, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	if _, err := c.ListTableOfFamily(rs.Table, nftables.TableFamilyINet); errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("looking for nftables table %q: %w", rs.Table, err)
	}
	var out []Element
	for i, s := range rs.Sets {
		set, err := rs.set(i)
		if err != nil {
			return nil, err
		}
		list, err := c.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("listing set %q of nftables table %q: %w", s.Name, rs.Table, err)
		}
		for _, e := range list {
			out = append(out, Element{Set: s.Name, Key: e.Key, KeyEnd: e.KeyEnd, Value: e.Val, Owner: e.Comment})
		}
	}
	return out, nil
}

// Verify reports a chain that is missing or has lost rules, as fault.NotFound.
func (rs *Ruleset) Verify() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	for _, ch := range rs.Chains {
		rules, err := c.GetRules(rs.table(), &nftables.Chain{Name: ch.Name, Table: rs.table()})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("listing chain %q of nftables table %q: %w", ch.Name, rs.Table, err)
		}
		if len(rules) != len(ch.Rules) {
			return fault.NotFound.Errorf("chain %q of nftables table %q has %d rules instead of %d", ch.Name, rs.Table, len(rules), len(ch.Rules))
		}
	}
	return nil
}

// Delete removes a table of family inet with all it holds. It succeeds when
// there is none.
func Delete(table string) error {
	rs := Ruleset{Table: table}
	err := rs.commit(func(c *nftables.Conn) error {
		c.DelTable(rs.table())
		return nil
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting nftables table %q: %w", table, err)
	}
	return nil
}

// Available reports whether the kernel and the caller's privileges allow
// nftables at all.
func Available() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	if err != nil {
		return fmt.Errorf("listing nftables tables: %w", err)
	}
	return nil
}

// commit runs one transaction. The kernel refuses one that raced with another
// (ERESTART is its business, EBUSY ours), which is then tried again.
func (rs *Ruleset) commit(build func(*nftables.Conn) error) error {
	const tries = 5
	var err error
	for range tries {
		c, nerr := nftables.New()
		if nerr != nil {
			return nerr
		}
		if err = build(c); err != nil {
			return err
		}
		if err = c.Flush(); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return err
}

package nft

import (
	"errors"
	"fmt"
	"slices"

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
	return rs.forEachSet(elements, func(s *nftables.Set, list []Element) error {
		out := make([]nftables.SetElement, len(list))
		for i, e := range list {
			out[i] = nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd, Val: e.Value, Comment: e.Owner}
		}
		return c.SetAddElements(s, out)
	})
}

// forEachSet calls fn with every set that elements belong to, and those.
func (rs *Ruleset) forEachSet(elements []Element, fn func(*nftables.Set, []Element) error) error {
	for i := range rs.Sets {
		var list []Element
		for _, e := range elements {
			if e.Set == rs.Sets[i].Name {
				list = append(list, e)
			}
		}
		if len(list) == 0 {
			continue
		}
		s, err := rs.set(i)
		if err != nil {
			return err
		}
		if err := fn(s, list); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes every element whose owner matches. It succeeds when there is
// none, or no table.
func (rs *Ruleset) Remove(matches func(owner string) bool) error {
	return rs.RemoveDuring(matches, func() error { return nil })
}

// RemoveDuring is Remove with something else to do, whatever comes of the
// removal. The kernel frees elements only after a grace period, and the close of
// the socket that removed them waits for it (10 ms, measured on Linux 6.18):
// meanwhile is called before that.
func (rs *Ruleset) RemoveDuring(matches func(owner string) bool, meanwhile func() error) error {
	var open sockets
	err := rs.removeAll(matches, &open)
	return errors.Join(err, meanwhile(), open.close())
}

func (rs *Ruleset) removeAll(matches func(owner string) bool, open *sockets) error {
	// The kernel's listing may miss an element while others come and go, so an
	// empty answer is asked for again.
	const tries = 3
	for range tries {
		all, err := rs.Elements()
		if err != nil {
			return err
		}
		gone := slices.DeleteFunc(all, func(e Element) bool { return !matches(e.Owner) })
		if len(gone) > 0 {
			return rs.remove(gone, open)
		}
	}
	return nil
}

// remove removes the elements at once or, when another was faster with one of
// them, one by one.
func (rs *Ruleset) remove(gone []Element, open *sockets) error {
	err := rs.commitOn(open.new, func(c *nftables.Conn) error { return rs.deleteElements(c, gone) })
	if errors.Is(err, unix.ENOENT) && len(gone) > 1 {
		var errs []error
		for i := range gone {
			errs = append(errs, rs.remove(gone[i:i+1], open))
		}
		return errors.Join(errs...)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing elements of %q from nftables table %q: %w", gone[0].Owner, rs.Table, err)
	}
	return nil
}

func (rs *Ruleset) deleteElements(c *nftables.Conn, gone []Element) error {
	return rs.forEachSet(gone, func(s *nftables.Set, list []Element) error {
		out := make([]nftables.SetElement, len(list))
		for i, e := range list {
			out[i] = nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd}
		}
		return c.SetDeleteElements(s, out)
	})
}

// sockets are connections whose close is put off.
type sockets []*nftables.Conn

func (s *sockets) new() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err == nil {
		*s = append(*s, c)
	}
	return c, err
}

func (s *sockets) close() error {
	var errs []error
	for _, c := range *s {
		errs = append(errs, c.CloseLasting())
	}
	return errors.Join(errs...)
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
	return rs.commitOn(func() (*nftables.Conn, error) { return nftables.New() }, build)
}

func (rs *Ruleset) commitOn(open func() (*nftables.Conn, error), build func(*nftables.Conn) error) error {
	const tries = 5
	var err error
	for range tries {
		c, nerr := open()
		if nerr != nil {
			return fmt.Errorf("opening nftables: %w", nerr)
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

package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// with calls fn with a connection of its own.
func with(fn func(*Conn) error) error {
	c, err := Open()
	if err != nil {
		return err
	}
	return errors.Join(fn(c), c.Close())
}

// Add ensures the table and then adds the elements, all or none. An existing element
// keeps its owner; in a map, an existing element with a different value is the error
// unix.EEXIST.
func (rs *Ruleset) Add(elements ...Element) error {
	err := with(func(c *Conn) error { return c.Add(Group{rs, elements}) })
	if err != nil {
		return fmt.Errorf("adding to nftables table %q: %w", rs.Table, err)
	}
	return nil
}

// Elements returns the elements of the sets and maps; none if there is no table.
func (rs *Ruleset) Elements() (out []Element, err error) {
	err = with(func(c *Conn) (err error) {
		out, err = c.List(rs)
		return err
	})
	return out, err
}

// Remove removes every element whose owner matches. It succeeds if there is none, or
// no table.
func (rs *Ruleset) Remove(matches func(owner string) bool) error {
	return with(func(c *Conn) error { return c.RemoveOwned(rs, matches) })
}

// RemoveOwned is Ruleset.Remove over this connection.
func (c *Conn) RemoveOwned(rs *Ruleset, matches func(owner string) bool) error {
	// The kernel's listing may miss an element while others change the set, so an
	// empty answer is retried.
	const tries = 3
	for range tries {
		all, err := c.List(rs)
		if err != nil {
			return err
		}
		gone := slices.DeleteFunc(all, func(e Element) bool { return !matches(e.Owner) })
		if len(gone) > 0 {
			return c.removeAll(rs, gone)
		}
	}
	return nil
}

// removeAll removes the elements, in as many transactions as the kernel needs.
func (c *Conn) removeAll(rs *Ruleset, gone []Element) error {
	var errs []error
	for part := range slices.Chunk(gone, maxChange) {
		errs = append(errs, c.removePart(rs, part))
	}
	return errors.Join(errs...)
}

// removePart removes the elements together or, if another caller has already removed
// one of them, one by one.
func (c *Conn) removePart(rs *Ruleset, gone []Element) error {
	err := c.Remove(Group{rs, gone})
	if !errors.Is(err, fault.NotFound) {
		return err
	}
	var errs []error
	for i := range gone {
		if err := c.Remove(Group{rs, gone[i : i+1]}); !errors.Is(err, fault.NotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

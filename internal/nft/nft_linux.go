package nft

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Ruleset is a table. It must not be changed once it was used.
type Ruleset struct {
	Table string
	// Bridge makes the table one of family bridge, which sees the frames of bridge
	// ports, instead of family inet.
	Bridge bool
	Sets   []Set
	Chains []Chain
	// Tag distinguishes this definition from others, see tag. Empty means its digest,
	// which is a good part of what a process needs that has just started: definitions
	// that are always the same give it as a constant, and test that it is the digest.
	// Rules that have the digest itself count as well.
	Tag string

	digestOnce sync.Once // see Digest
	digest     string
	digestErr  error
}

// Set is a named set, or a map if Value is set. Key and Value are lists of types,
// which are concatenated; with Interval, keys are ranges.
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

// Element is one element of a set or map. Each part of a concatenated key or value is
// padded to 4 bytes, see Word.
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
	return &nftables.Table{Name: rs.Table, Family: rs.family()}
}

func (rs *Ruleset) family() nftables.TableFamily {
	if rs.Bridge {
		return nftables.TableFamilyBridge
	}
	return nftables.TableFamilyINet
}

// typeOf returns the type of a key or value. A single type is not padded.
func typeOf(types []nftables.SetDatatype) (nftables.SetDatatype, error) {
	if len(types) == 1 {
		return types[0], nil
	}
	return nftables.ConcatSetType(types...)
}

// set returns the library's form of a set. The ID need only be unique within a
// transaction; setting it here keeps the library from using a global counter.
func (rs *Ruleset) set(i int) (*nftables.Set, error) {
	s := rs.Sets[i]
	key, err := typeOf(s.Key)
	if err != nil {
		return nil, fmt.Errorf("set %q: %w", s.Name, err)
	}
	out := &nftables.Set{Table: rs.table(), Name: s.Name, ID: uint32(i + 1), KeyType: key, Concatenation: len(s.Key) > 1, Interval: s.Interval}
	if len(s.Key) == 1 && s.Key[0] == nftables.TypeIFName {
		out.KeyByteOrder = binaryutil.NativeEndian // otherwise nft(8) prints names as empty
	}
	if len(s.Value) > 0 {
		out.IsMap = true
		if out.DataType, err = typeOf(s.Value); err != nil {
			return nil, fmt.Errorf("map %q: %w", s.Name, err)
		}
	}
	return out, nil
}

// Define creates the table as described, or repairs its chains by replacing their
// rules. Every rule carries the tag of the definition.
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
	tag, err := rs.tag()
	if err != nil {
		return err
	}
	for _, ch := range rs.Chains {
		chain := c.AddChain(&nftables.Chain{Table: t, Name: ch.Name, Type: ch.Type, Hooknum: ch.Hook, Priority: ch.Priority})
		c.FlushChain(chain) // rules have no identity: adding them twice would double them
		for _, exprs := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs, UserData: tag})
		}
	}
	return nil
}

// Delete removes a table of family inet with everything in it. It succeeds if there
// is none.
func Delete(table string) error { return (&Ruleset{Table: table}).Delete() }

// Delete removes the table with everything in it. It succeeds if there is none.
func (rs *Ruleset) Delete() error {
	err := rs.commit(func(c *nftables.Conn) error {
		c.DelTable(rs.table())
		return nil
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting nftables table %q: %w", rs.Table, err)
	}
	return nil
}

// commit runs one transaction that describes tables. The kernel refuses one that
// raced with another: it retries ERESTART itself, and commit retries EBUSY.
func (rs *Ruleset) commit(build func(*nftables.Conn) error) error {
	return again(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("opening nftables: %w", err)
		}
		if err := build(c); err != nil {
			return err
		}
		return c.Flush()
	})
}

// again repeats a transaction until the kernel no longer reports that another one
// interfered.
func again(transaction func() error) (err error) {
	const tries = 8
	for try := range tries {
		if try > 0 {
			time.Sleep(pause(try))
		}
		if err = transaction(); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return err
}

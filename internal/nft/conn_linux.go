package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Conn changes elements over one socket, in the network namespace of the thread that
// opened it. It is safe for concurrent use.
//
// The kernel frees removed elements only after a grace period, for which closing any
// such socket waits (10 ms, measured on Linux 6.18); a long-running process therefore
// keeps its Conn.
type Conn struct {
	socket *nlsock.Socket
}

// Open opens a connection.
func Open() (*Conn, error) {
	s, err := nlsock.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &Conn{s}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.socket.Close() }

// Group is elements of one ruleset.
type Group struct {
	Rules    *Ruleset
	Elements []Element
}

// Add adds the elements of all groups in one transaction, all or none. It first
// ensures the tables, so no element is ever added to a table without its rules. An
// existing element keeps its owner; in a map, an existing element with a different
// value is the error unix.EEXIST.
func (c *Conn) Add(groups ...Group) error { return c.add(0, groups) }

// Put is Add for elements that nobody else may have: an existing one, a leftover of
// another owner, is replaced.
func (c *Conn) Put(groups ...Group) error {
	err := c.add(unix.NLM_F_EXCL, groups)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	stale, err := c.present(groups)
	if err != nil {
		return err
	}
	// In one transaction, so that the existing elements work until they are replaced.
	return c.transact("replacing elements", func() []*nlsock.Message {
		return append(elementMessages(unix.NFT_MSG_DELSETELEM, 0, stale), elementMessages(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, groups)...)
	})
}

func (c *Conn) add(flags uint16, groups []Group) error {
	for _, g := range groups {
		if err := c.Ensure(g.Rules); err != nil {
			return err
		}
	}
	put := func() error {
		return c.transact("adding elements", func() []*nlsock.Message {
			return elementMessages(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|flags, groups)
		})
	}
	err := put()
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, g := range groups { // somebody has since removed one, or a set that no rule uses
		if err := g.Rules.Define(); err != nil {
			return err
		}
	}
	return put()
}

// present returns those of the elements that exist.
func (c *Conn) present(groups []Group) (out []Group, err error) {
	for _, g := range groups {
		found := Group{Rules: g.Rules}
		for _, e := range g.Elements {
			have, err := c.Get(g.Rules, e.Set, e.Key)
			if err != nil {
				return nil, err
			}
			if have[0] != nil {
				found.Elements = append(found.Elements, e)
			}
		}
		if len(found.Elements) > 0 {
			out = append(out, found)
		}
	}
	return out, nil
}

// Remove removes the elements of all groups in one transaction. If one does not
// exist, the error is fault.NotFound and all others stay.
func (c *Conn) Remove(groups ...Group) error {
	err := c.transact("removing elements", func() []*nlsock.Message {
		return elementMessages(unix.NFT_MSG_DELSETELEM, 0, groups)
	})
	if errors.Is(err, unix.ENOENT) {
		return fault.NotFound.Wrap(err)
	}
	return err
}

// transact runs one transaction.
func (c *Conn) transact(what string, build func() []*nlsock.Message) error {
	return again(func() error {
		changes := build()
		if len(changes) == 0 {
			return nil
		}
		answers, err := c.socket.Exchange(framed(what, changes)...)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Err != nil {
				return a.Err
			}
		}
		return nil
	})
}

// Get returns the elements with the keys; nil for a key that does not exist.
func (c *Conn) Get(rs *Ruleset, set string, keys ...[]byte) ([]*Element, error) {
	messages := make([]*nlsock.Message, len(keys))
	for i, key := range keys {
		messages[i] = rs.elementMessage(unix.NFT_MSG_GETSETELEM, 0, set, []Element{{Key: key}})
	}
	answers, err := c.socket.Exchange(messages...)
	if err != nil {
		return nil, err
	}
	out := make([]*Element, len(keys))
	for i, a := range answers {
		if a.Err != nil && !errors.Is(a.Err, unix.ENOENT) {
			return nil, a.Err
		}
		for _, reply := range a.Replies {
			for _, e := range parseElements(set, reply) {
				out[i] = &e
			}
		}
	}
	return out, nil
}

// headerLen is the size of struct nfgenmsg, with which replies begin.
const headerLen = 4

// message begins a message of the nftables subsystem of nfnetlink.
func message(what string, kind, flags uint16, family uint8) *nlsock.Message {
	return nlsock.New(what, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, []byte{family, unix.NFNETLINK_V0, 0, 0})
}

// framed puts the messages between the begin and end messages of a batch.
func framed(what string, changes []*nlsock.Message) []*nlsock.Message {
	mark := func(kind uint16) *nlsock.Message {
		header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES)
		m := nlsock.New(what+", an nftables transaction", kind, 0, header)
		m.Silent = true
		return m
	}
	out := append([]*nlsock.Message{mark(unix.NFNL_MSG_BATCH_BEGIN)}, changes...)
	return append(out, mark(unix.NFNL_MSG_BATCH_END))
}

// elementMessages returns the messages for each set that has elements, none with more
// than its length fields can express.
func elementMessages(kind, flags uint16, groups []Group) (out []*nlsock.Message) {
	for _, g := range groups {
		for _, s := range g.Rules.Sets {
			var list []Element
			for _, e := range g.Elements {
				if e.Set == s.Name {
					list = append(list, e)
				}
			}
			for part := range slices.Chunk(list, maxMessage) {
				out = append(out, g.Rules.elementMessage(kind, flags, s.Name, part))
			}
		}
	}
	return out
}

func (rs *Ruleset) elementMessage(kind, flags uint16, set string, elements []Element) *nlsock.Message {
	m := message(fmt.Sprintf("elements of set %q in nftables table %q", set, rs.Table), kind, flags, uint8(rs.family()))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, rs.Table)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	if elements == nil {
		return m
	}
	value := func(attr uint16, v []byte) {
		if v != nil {
			m.Nest(attr, func() { m.Bytes(unix.NFTA_DATA_VALUE, v) })
		}
	}
	m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
		for _, e := range elements {
			m.Nest(unix.NFTA_LIST_ELEM, func() {
				value(unix.NFTA_SET_ELEM_KEY, e.Key)
				value(keyEnd, e.KeyEnd)
				if kind == unix.NFT_MSG_NEWSETELEM {
					value(unix.NFTA_SET_ELEM_DATA, e.Value)
					if e.Owner != "" {
						m.Bytes(unix.NFTA_SET_ELEM_USERDATA, comment(e.Owner))
					}
				}
			})
		}
	})
	return m
}

// keyEnd is NFTA_SET_ELEM_KEY_END, which golang.org/x/sys/unix lacks.
const keyEnd = 10

// comment encodes a text as nft(8) does: kind 0, the length, the text with its
// terminating zero.
func comment(s string) []byte { return append(append([]byte{0, byte(len(s) + 1)}, s...), 0) }

package nft

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// List returns the elements of the sets and maps, each once; none if there is no
// table. If others changed rulesets during every try, the error is
// nlsock.ErrInterrupted.
func (c *Conn) List(rs *Ruleset) (out []Element, err error) {
	for _, s := range rs.Sets {
		list, err := c.list(rs, s.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// list lists one set until the result can be trusted. After a set has grown or
// shrunk, the kernel moves its elements in the background: those that it moves during
// a listing are listed again (rhashtable_walk_next in lib/rhashtable.c), and in a
// listing of several parts some may be in none of them, because the next part starts
// at a count of elements (nft_rhash_walk). The kernel reports neither. A listing in
// one part is complete; one in several parts is trusted if the next has the same
// elements in the same order, which moving would change.
func (c *Conn) list(rs *Ruleset, set string) ([]Element, error) {
	var before []Element
	for try := range listTries {
		if try > 1 {
			time.Sleep(pause(try))
		}
		parts, err := c.dump(rs.elementMessage(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, set, nil))
		if err != nil {
			return nil, err
		}
		var all []Element
		for _, part := range parts {
			all = append(all, parseElements(set, part)...)
		}
		once := distinct(all)
		if len(parts) <= 1 || len(once) == len(all) && slices.EqualFunc(before, all, sameElement) {
			return once, nil
		}
		before = all
	}
	return nil, nlsock.ErrInterrupted
}

// listTries is how often a listing is tried.
const listTries = 20

// distinct returns each element once.
func distinct(list []Element) []Element {
	seen := make(map[string]bool, len(list))
	var out []Element
	for _, e := range list {
		if key := string(e.Key); !seen[key] {
			seen[key] = true
			out = append(out, e)
		}
	}
	return out
}

func sameElement(a, b Element) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Owner == b.Owner
}

// dump returns the parts of the reply to a dump request; none if there is no table.
// It starts over if a change interrupted the dump.
func (c *Conn) dump(m *nlsock.Message) ([][]byte, error) {
	var err error
	for try := range listTries {
		if try > 0 {
			time.Sleep(pause(try))
		}
		answers, xerr := c.socket.Exchange(m)
		if xerr != nil {
			return nil, xerr
		}
		if err = answers[0].Err; errors.Is(err, nlsock.ErrInterrupted) || errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return answers[0].Replies, err
	}
	return nil, err
}

func parseElements(set string, reply []byte) (out []Element) {
	if len(reply) < headerLen {
		return nil
	}
	list := nlsock.Attr(reply[headerLen:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	nlsock.Attrs(list, func(_ uint16, b []byte) {
		e := Element{Set: set}
		nlsock.Attrs(b, func(kind uint16, v []byte) {
			switch kind {
			case unix.NFTA_SET_ELEM_KEY:
				e.Key = nlsock.Attr(v, unix.NFTA_DATA_VALUE)
			case keyEnd:
				e.KeyEnd = nlsock.Attr(v, unix.NFTA_DATA_VALUE)
			case unix.NFTA_SET_ELEM_DATA:
				e.Value = nlsock.Attr(v, unix.NFTA_DATA_VALUE)
			case unix.NFTA_SET_ELEM_USERDATA:
				if len(v) > 2 && v[0] == 0 {
					e.Owner = nlsock.String(v[2:])
				}
			}
		})
		out = append(out, e)
	})
	return out
}

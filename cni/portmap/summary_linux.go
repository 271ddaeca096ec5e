package portmap

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/nodekit-project/nodekit/internal/nft"
)

// The summary of an attachment is the digest of all elements that it owns. With it
// DEL can tell whether the configuration, which may be less than that of the ADD,
// yields all of them; then it need not list the table. An attachment with elements
// has a summary at every instant: if they need several transactions, it is in the
// first, and is removed by the last.

const digestLen = 16

// summary returns the element of the owner's summary. The order of own does not
// matter.
func summary(owner string, own []nft.Element) nft.Element {
	var places []string
	for _, e := range own {
		if e.Owner == owner {
			places = append(places, e.Set+"\x00"+string(e.Key)+"\x00"+string(e.Value))
		}
	}
	slices.Sort(places)
	h := sha256.New()
	for _, p := range places {
		h.Write([]byte{byte(len(p))})
		h.Write([]byte(p))
	}
	key := sha256.Sum256([]byte(owner))
	return nft.Element{Set: owners, Key: key[:digestLen], Value: h.Sum(nil)[:digestLen], Owner: owner}
}

// unknown is the summary of an attachment with elements of several ADDs, which no
// single configuration yields.
func unknown() []byte { return make([]byte, digestLen) }

func isUnknown(e nft.Element) bool {
	return e.Set == owners && bytes.Equal(e.Value, unknown())
}

// summarize adds the change of the summary. The wanted elements are all of the
// attachment's, unless it had some before.
func (v *view) summarize(wanted []nft.Element, change *nft.Change) error {
	want := summary(v.owner, wanted)
	found, err := v.conn.Get(v.rules, owners, want.Key)
	if err != nil {
		return err
	}
	h := found[0]
	switch {
	case h != nil && (same(want, *h) || isUnknown(*h)):
		return nil
	case h != nil:
		change.Remove = append(change.Remove, *h)
		want.Value = unknown()
	case countOwned(change.Add, v.owner) < countOwned(wanted, v.owner):
		want.Value = unknown()
	}
	change.Add = slices.Insert(change.Add, 0, want)
	return nil
}

func countOwned(elements []nft.Element, owner string) (n int) {
	for _, e := range elements {
		if e.Owner == owner {
			n++
		}
	}
	return n
}
